"""The two sides of `benchmarks.peers`: a case as our compiled function, and as PyTorch in one of its settings."""

import contextlib
import dataclasses
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdefect import models
from jaxdefect.config import Config, LossConfig, OptimizerConfig
from jaxdefect.model_config import ModelConfig, RegressionConfig, SegDecConfig, UNetMobileNetV2Config
from jaxdefect.models import hoisting
from jaxdefect.training import state, step

LEARNING_RATE, DECISION_WEIGHT = 1e-2, 0.1
STEEL = SegDecConfig(kernels="atrous", attention=True)


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and its dtype at a size. `is_training`: a step of plain SGD on the maps' cross-entropy and a tenth of
    the decisions', else an inference."""

    model: ModelConfig
    size: tuple[int, int]
    batch: int = 1
    channels: int = 1
    is_training: bool = False


CASES = {
    "segdec_inference": Case(SegDecConfig(), (1408, 512)),
    "segdec_training": Case(SegDecConfig(), (704, 256), is_training=True),
    "steel_inference": Case(STEEL, (1408, 512)),
    "steel_training": Case(STEEL, (704, 256), is_training=True),
    "regression_inference": Case(RegressionConfig(), (256, 256), batch=64),
    "unet_mobilenet_inference": Case(UNetMobileNetV2Config(input_norm="none"), (256, 1248), channels=3),
}


class Side(NamedTuple):
    """`call`: once, waited for. `outputs`: those to compare, float32: maps [B, h, w, M] and decisions [B], of a
    training by the weights of now. `device_bytes`: the most that a GPU held for a call.
    """

    call: Callable[[], Any]
    outputs: Callable[[], list[np.ndarray]]
    device_bytes: Callable[[], int]


def random_batch(case: Case) -> dict[str, np.ndarray]:
    """What a case computes, every second image defective."""
    rng = np.random.default_rng(0)
    height, width = case.size
    label = (np.arange(case.batch) % 2 == 0).astype(np.float32)
    cells = (case.batch, height // case.model.output_stride, width // case.model.output_stride, 1)
    return {
        "image": rng.random((case.batch, height, width, case.channels), np.float32),
        "mask": (rng.random(cells) < 0.1).astype(np.float32) * label[:, None, None, None],
        "weight": np.ones(cells, np.float32),
        "label": label,
        "has_mask": np.ones(case.batch, np.float32),
    }


def variables(case: Case) -> dict[str, Any]:
    """Both sides' weights."""
    return models.init(models.build(case.model), num_channels=case.channels, seed=0)


def inference(case: Case) -> Any:
    """Our compiled function of variables and images: maps and decisions."""
    module = models.build(case.model)

    @jax.jit
    def forward(variables: Any, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs = models.apply_inference(module.apply, variables, image)
        return outputs["segmentation"], outputs["decision"]

    return forward


def training(case: Case) -> tuple[Any, state.TrainState]:
    """Our compiled step, and its first state."""
    module = models.build(case.model)
    loss = LossConfig(balance="none", decision_weight=DECISION_WEIGHT)
    config = Config(model=case.model, loss=loss, optimizer=OptimizerConfig(learning_rate=LEARNING_RATE))
    stage = state.stages(config, steps_per_epoch=100)[0]
    return step.make_step(module, config, stage), state.initial_state(module, config, stage)


def ours(case: Case) -> Side:
    """Our compiled function. Its memory on a device is by XLA's plan, without what it tries while compiling."""
    batch, forward = random_batch(case), inference(case)
    image = jnp.asarray(batch["image"])
    if not case.is_training:
        weights = jax.device_put(models.inference_variables(case.model, variables(case), image_size=case.size))
        forward, weights = hoisting.for_inference(forward, weights, image_shape=image.shape[1:])
        program = forward.lower(weights, image).compile()
        return Side(
            lambda: jax.block_until_ready(program(weights, image)),
            lambda: [np.asarray(value) for value in program(weights, image)],
            lambda: _planned_bytes(program),
        )
    wanted, first = training(case)
    holder, placed = [first], jax.device_put(batch)
    compiled = wanted.lower(first, placed).compile()
    del first  # the step takes its memory

    def train() -> None:
        holder[0], metrics = compiled(holder[0], placed)
        jax.block_until_ready((holder[0], metrics))

    def outputs() -> list[np.ndarray]:
        values = [np.asarray(value) for value in forward({"params": holder[0].params}, image)]
        forward.clear_cache()
        return values

    return Side(train, outputs, lambda: _planned_bytes(compiled))


def _planned_bytes(program: Any) -> int:
    plan = program.memory_analysis()
    kept = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return kept + plan.temp_size_in_bytes


def pytorchs(case: Case, *, setting: str, device: str) -> Side:
    """PyTorch in a setting, some of "channels_last", "compile" and "graphs" (CUDA graphs) joined by "_", or "eager".

    bfloat16 is the whole network's in inference, in training that of autocast, as is usual; of float32 "tf32" is
    allowed in convolutions and products or forbidden in both. cuDNN measures which of its ways is the fastest.
    """
    import torch
    import torch.nn.functional as F

    from benchmarks import torch_models

    torch.set_num_threads(len(os.sched_getaffinity(0)))  # by itself it may leave out a core's second thread
    dtype, is_cuda = case.model.dtype, device == "cuda"
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    module = {
        "segdec": lambda: torch_models.SegDec(is_atrous=case.model == dataclasses.replace(STEEL, dtype=dtype)),
        "regression": lambda: torch_models.Regression(case.channels),
        "unet_mobilenet_v2": lambda: torch_models.UNetMobileNetV2(case.channels),
    }[case.model.architecture]()
    torch_models.copy_variables(module, variables(case))
    layout = torch.channels_last if "channels_last" in setting else torch.contiguous_format
    arrays = {name: torch.from_numpy(value).to(device) for name, value in random_batch(case).items()}
    image = arrays["image"].permute(0, 3, 1, 2).contiguous(memory_format=layout)
    mask = arrays["mask"].permute(0, 3, 1, 2).contiguous()
    module = module.to(device=device, memory_format=layout).train(case.is_training)
    if dtype == "bfloat16" and not case.is_training:
        module, image = module.to(torch.bfloat16), image.to(torch.bfloat16)
    called: Any = module
    if "compile" in setting:
        called = torch.compile(module, mode="reduce-overhead" if "graphs" in setting else None)

    def wait() -> None:
        if is_cuda:
            torch.cuda.synchronize()

    def precision() -> contextlib.AbstractContextManager[Any]:
        is_autocast = dtype == "bfloat16" and case.is_training
        return torch.autocast(device, torch.bfloat16) if is_autocast else contextlib.nullcontext()

    def infer() -> tuple[Any, Any]:
        with torch.inference_mode(), precision():
            result = called(image)
        wait()
        return result

    def outputs() -> list[np.ndarray]:
        with torch.no_grad(), precision():  # not compiled in training, of which it would leave a program
            maps, decision = module(image) if case.is_training else infer()
        return [maps.permute(0, 2, 3, 1).float().cpu().contiguous().numpy(), decision.float().cpu().numpy()]

    optimizer = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE)

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision():
            maps, decision = called(image)
        loss = F.binary_cross_entropy_with_logits(maps.float(), mask)
        loss = loss + DECISION_WEIGHT * F.binary_cross_entropy_with_logits(decision.float(), arrays["label"])
        loss.backward()
        optimizer.step()
        wait()

    call = train if case.is_training else infer

    def device_bytes() -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()  # without what cuDNN tried in the first call
        call()
        # What a CUDA graph holds between calls counts as reserved only.
        return torch.cuda.memory_reserved() if "graphs" in setting else torch.cuda.max_memory_allocated()

    return Side(call, outputs, device_bytes)
