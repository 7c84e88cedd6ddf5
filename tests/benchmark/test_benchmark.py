"""Costs against those worked out by hand, every mode on a small run, and the files."""

import dataclasses
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxdefect import config as config_lib
from jaxdefect import models
from jaxdefect.benchmark import layers, measure, modes, programs, results
from jaxdefect.config import Config, DataConfig, InferenceConfig, LossConfig, SyntheticConfig, TrainingConfig
from jaxdefect.model_config import SegDecConfig
from jaxdefect.training import step
from jaxdefect.types import InputError


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("benchmark") / "surfaces"
    return Config(
        data=DataConfig(
            reader="synthetic",
            root=str(root),
            image_size=(64, 64),
            synthetic=SyntheticConfig(layout="folder", num_images=16, height=64, width=64),
        ),
        model=SegDecConfig(kernels="atrous", num_first_convs=1),
        loss=LossConfig(segmentation="bce"),
        training=TrainingConfig(batch_size=2),
    )


def test_the_cost_of_a_matrix_product_and_the_share_of_the_limit():
    left, right = jnp.ones((64, 128)), jnp.ones((128, 32))
    _, seconds, cost = measure.compile_program(jax.jit(jnp.matmul), left, right)
    assert seconds > 0
    assert cost.flops == 2 * 64 * 128 * 32
    assert cost.argument_bytes == 4 * (64 * 128 + 128 * 32)
    times = measure.Times.of([2.0])
    limits = measure.Ceilings("float32", flops_per_second=1000.0, bytes_per_second=10.0)
    known = measure.Cost(1000.0, 15.0, None, None, None)
    share = measure.share_of_limit(known, times, limits)
    assert share == {
        "flops_per_second": 500.0,
        "share_of_matrix_product": 0.5,
        "share_of_copy": 0.75,
        "binding_limit": "copy",
    }
    # More operations than a product of matrices has in that time: a CPU need not do all of a formula's.
    bound = [measure.share_of_limit(known, measure.Times.of([t]), limits)["binding_limit"] for t in (1.2, 0.9)]
    assert bound == ["matrix product", None]


def test_what_a_gpu_starts_is_read_from_the_programs_text():
    """A convolution and what follows it; parameters and parts of results start nothing, comments count operands."""
    text = """HloModule jit_run

%fused (p: f32[8]) -> f32[8] {
  ROOT %sum = f32[8]{0} add(%p, %p)
}

ENTRY %main (image: bf16[1,4,4,2], kernel: f32[3,3]) -> f32[16] {
  %image = bf16[1,4,4,2]{3,2,1,0} parameter(0)
  %kernel = f32[3,3]{1,0} parameter(1)
  %conv.1 = (f32[1,4,4,1]{3,2,1,0}, u8[64]{0}) custom-call(%image, %kernel), custom_call_target="__cudnn$convForward"
  %map = f32[1,4,4,1]{3,2,1,0} get-tuple-element(%conv.1), index=0
  ROOT %fusion = f32[16]{0} fusion(%map, %map, %map, %map, %map, /*index=5*/%kernel), kind=kLoop, calls=%fused
}
"""
    found = list(programs.kernel_launches(text))
    assert ["cudnn" in line for line, _ in found] == [True, False]
    assert [count for _, count in found] == [2 * 32 + 4 * 9 + 4 * 16 + 64, 4 * 16 + 5 * 4 * 16 + 4 * 9]


def test_a_gpus_bytes_are_of_what_it_starts_and_its_operations_of_the_formulas(monkeypatch):
    """XLA knows neither of what cuDNN computes; a copy of the array that it says it starts."""
    started = "\nENTRY %main {\n  %a = f32[8]{0} parameter(0)\n  ROOT %b = f32[8]{0} copy(%a)\n}\n"
    compiled = jax.jit(lambda x: x + 1).lower(jnp.ones(8)).compile()
    monkeypatch.setattr(type(compiled), "as_text", lambda _: started)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert measure.cost_of(compiled).bytes_accessed == 64
    _, _, cost = measure.compile_program(jax.jit(jnp.matmul), jnp.ones((4, 8)), jnp.ones((8, 2)))
    assert (cost.flops, cost.bytes_accessed) == (2 * 4 * 8 * 2, 64)
    calls = []
    for warm_s in (0.1, 0.0):
        monkeypatch.setattr(measure, "WARM_S", warm_s)
        calls.clear()
        start = time.perf_counter()
        measure.time_calls(lambda: calls.append(time.perf_counter()), repetitions=2, is_short=True)
        assert calls[-2 * 20] - start >= warm_s
    assert len(calls) == 1 + 2 * 20


def test_times_are_of_the_calls_after_the_warm_up():
    calls = []
    times = measure.time_calls(lambda: calls.append(0), repetitions=4, warmup=3)
    assert len(calls) == 7
    assert times.fastest <= times.median <= times.p99 <= times.slowest
    times = measure.Times.of([3.0, 1.0, 2.0, 6.0])
    assert (times.fastest, times.median, times.mean, times.slowest) == (1.0, 2.5, 3.0, 6.0)


def test_layers_are_those_with_a_kernel_and_cost_what_their_shapes_say(config: Config, monkeypatch: pytest.MonkeyPatch):
    module = models.build(config.model)
    mesh = step.device_mesh(2)
    variables = step.replicate(models.init(module, num_channels=1, seed=0), mesh)
    image = jnp.zeros((2, 64, 64, 1))
    with monkeypatch.context() as patch:
        compiled = measure.compile_program
        places = []
        patch.setattr(
            measure,
            "compile_program",
            lambda *all, **named: places.append(all[2][0].sharding.spec[:1]) or compiled(*all, **named),
        )
        found = layers.time_layers(module, variables, image, mesh=mesh, is_training=False, repetitions=1)
    assert set(places) == {("data",)}  # each device its part of the batch, as in the network
    by_path = {layer.path: layer for layer in found}
    kernels = {
        "/".join(entry.key for entry in path[:-1])
        for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])
        if path[-1].key == "kernel"
    }
    assert set(by_path) == kernels
    second = by_path["segmentation/conv2"]
    assert (second.input_shape, second.output_shape) == ((2, 32, 32, 32), (2, 32, 32, 64))
    # A 3x3 kernel of 32 -> 64 channels; fewer products at the border than inside, and the norm's few operations.
    assert second.flops == pytest.approx(2 * 2 * 32 * 32 * 9 * 32 * 64, rel=0.15)


@pytest.mark.parametrize(
    ("architecture", "is_training"),
    [("segdec", False), ("regression", False), *((name, True) for name in models.ARCHITECTURES)],
)
def test_layers_of_every_network_can_be_called_alone(architecture: str, is_training: bool, monkeypatch):
    """On shapes of what is timed: a tall image is transposed in training, a batch in parts in inference."""
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    monkeypatch.setattr(models, "_PART_PIXELS", 96 * 64)
    compiled = measure.Cost(100.0, None, None, None, None)
    traced = []

    def trace(function, *arguments, **_):
        traced.append(jax.eval_shape(function, *arguments))
        return (lambda *_: None), 0.0, compiled

    monkeypatch.setattr(measure, "compile_program", trace)
    network = config_lib.complete({"model": {"architecture": architecture}}).model
    module, image = models.build(network), jnp.zeros((2, 96, 64, 3))
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    mesh = step.device_mesh(2, num_devices=1)
    found = layers.time_layers(module, variables, image, mesh=mesh, is_training=is_training, repetitions=1)
    assert len(traced) == len(found) >= 10
    height, width = found[0].input_shape[1:3]
    assert (height < width) == is_training
    assert found[0].input_shape[0] == (2 if is_training else 1)
    assert found[0].flops == (100 if is_training else 200)
    if (architecture, is_training) == ("regression", False):  # without the layer that follows it strip by strip
        assert found[-1].output_shape == (1, 24, 16, 512)


def test_operations_are_those_of_the_formulas_whatever_is_known_ahead(config: Config):
    """By its known spectrum a 15x15 kernel takes a thirtieth."""
    inference, training = InferenceConfig(large_kernel="fft"), TrainingConfig(batch_size=1)
    network = dataclasses.replace(config, model=SegDecConfig(), inference=inference, training=training)
    setting = modes.Setting("inference", 1, (64, 64), "float32", 1)
    row = modes.run(network, setting, repetitions=2, with_layers=True)
    assert row["cost"]["flops"] > 2 * 8 * 8 * 225 * 64 * 1024 / 4  # most taps lie outside of a map of 8x8
    assert sum(layer["flops"] for layer in row["layers"]) == pytest.approx(row["cost"]["flops"], rel=0.02)


@pytest.mark.parametrize("mode", ["inference", "train", "input", "end_to_end"])
def test_every_mode_gives_a_row_that_can_be_kept_shown_and_compared(
    config: Config, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(modes, "_THREADS_AHEAD", 2)
    setting = modes.Setting(mode, 2, (64, 64), "float32", None if mode == "train" else 1)
    modes.check(config, setting)
    row = modes.run(config, setting, repetitions=2, with_layers=False)
    assert row["num_devices"] == (2 if mode == "train" else 1)
    is_stream = mode in ("input", "end_to_end")
    assert row["images_per_second"] == pytest.approx(2 / row["times"]["mean" if is_stream else "median"])
    assert row["times"]["repetitions"] == (10 if is_stream else 2)  # five times what is read ahead
    if mode in ("inference", "train"):
        assert row["limits"]["binding_limit"] in ("matrix product", "copy")
        assert row["cost"]["flops"] > 1e8
    assert row["memory"]["host"] > 0
    if is_stream:
        assert 0 < row["seen_share"] < 1  # of 13 images 26 are shown
    if mode == "end_to_end":
        assert row["compile_seconds"] > 0
        assert 0 <= row["waiting_share"] < 1
        assert 0 <= row["reading_seconds"] < row["times"]["mean"]
    path = tmp_path / "row.json"
    results.save(path, {"environment": {"device": "cpu"}, "rows": [row]})
    content = results.load(path)
    assert results.table(content["rows"], title="").row_count == 1
    assert results.comparison(content, content).columns[-1]._cells == ["1.00"]
    results.plot(content["rows"]).savefig(tmp_path / "plot.png")
    other = {**content, "config": {"model": {"norm": "batch"}}}
    caption = results.comparison({**content, "config": {"model": {"norm": "feature"}}}, other).caption
    assert caption == "config.model.norm: 'feature' -> 'batch'"


def test_a_file_that_is_none_and_files_without_a_common_row_say_so(tmp_path: Path):
    (tmp_path / "other.json").write_text(json.dumps({"rows": [{"mode": "train"}]}))
    without_times = {"mode": "train", "batch_size": 1, "image_size": [64, 64], "dtype": "float32", "times": {}}
    for number, row in enumerate((1, without_times)):
        (tmp_path / f"{number}.json").write_text(json.dumps({"environment": {}, "rows": [row]}))
    for name in ("missing.json", "other.json", "0.json", "1.json"):
        with pytest.raises(InputError, match=r"make one with launch\.benchmark"):
            results.load(tmp_path / name)
    row = {"mode": "train", "batch_size": 1, "image_size": [64, 64], "dtype": "float32", "times": {"median": 1.0}}
    first, second = ({"environment": {"device": "cpu"}, "rows": [row | {"batch_size": size}]} for size in (1, 2))
    with pytest.raises(InputError, match="share no setting"):
        results.comparison(first, second)


def test_what_cannot_be_timed_is_refused_before_anything_is_compiled(config: Config):
    with pytest.raises(InputError, match="--sizes"):
        modes.check(config, modes.Setting("train", 2, (65, 64), "float32"))
    for batch_size, num_devices in ((3, 2), (6, 3), (2, 0)):
        with pytest.raises(InputError, match=r"--devices: .: there are 2 here"):
            modes.check(config, modes.Setting("train", batch_size, (64, 64), "float32", num_devices))
    with pytest.raises(InputError, match="--batch_sizes"):
        modes.check(config, modes.Setting("train", 0, (64, 64), "float32"))
