"""Linen modules, one file per architecture, behind one contract.

`module.apply(variables, image, train=...)` maps images [B, H, W, C] float32 in [0, 1] to a dict of float32 arrays.
A segmentation network gives
- "segmentation" [B, h, w, M]: M maps that the loss compares with one target; logits, or values for a regression;
- "probability" [B, h, w] in [0, 1]: the map to look at and to threshold;
- "decision" [B]: the logit of the image's score, of trained layers or a function of the map (`layers.score_logit`);
a classifier gives "classes" [B, N]: logits, class 0 being "good" in a detector.
`variables` holds "params" and, with batch norm, "batch_stats".
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxdefect import processor
from jaxdefect.model_config import LargeKernel, ModelConfig
from jaxdefect.models import large_kernel as large_kernels
from jaxdefect.models import precision
from jaxdefect.models.background_suppression import BackgroundSuppression
from jaxdefect.models.mobilenet_v2 import MobileNetV2
from jaxdefect.models.regression import Regression
from jaxdefect.models.resnet import ResNet
from jaxdefect.models.segdec import SegDec
from jaxdefect.models.unet import UNet
from jaxdefect.models.unet_mobilenet import UNetMobileNetV2
from jaxdefect.models.xla import busiest_share

ARCHITECTURES = {
    "segdec": SegDec,
    "background_suppression": BackgroundSuppression,
    "regression": Regression,
    "unet": UNet,
    "unet_mobilenet_v2": UNetMobileNetV2,
    "resnet": ResNet,
    "mobilenet_v2": MobileNetV2,
}

_STRIDE = 8  # of the maps that large kernels work on, in SegDecNet and in the networks with its encoder
_PART_PIXELS = 512 * 512  # that a CPU computes at once
_MANY_PIXELS = 256 * 128  # below, reading the spectra takes longer than the products that they save


@functools.lru_cache(maxsize=64)
def build(config: ModelConfig) -> nn.Module:
    """The module that `config.architecture` names; the same object for the same config, so that what is compiled for
    one of an ensemble's members serves the others.
    """
    return ARCHITECTURES[config.architecture](config)


def init(module: nn.Module, *, num_channels: int, seed: int) -> dict[str, Any]:
    """Initial variables of a module, float32; independent of the image size."""
    key = jax.random.key(seed)
    if isinstance(key, Tracer):  # inside `jax.eval_shape`
        return dict(_initializer(module, num_channels)(key))
    return dict(_compiled_initializer(module, num_channels)(key))


@functools.lru_cache(maxsize=8)
def _initializer(module: nn.Module, num_channels: int) -> Callable[[jax.Array], Mapping[str, Any]]:
    """Of a key, traced once: a start asks for weights once and for their shapes twice, 0.3 s each."""
    return jax.jit(lambda key: module.init(key, jnp.zeros((1, 64, 64, num_channels))))


@functools.lru_cache(maxsize=8)
def _compiled_initializer(module: nn.Module, num_channels: int) -> Callable[[jax.Array], Mapping[str, Any]]:
    """Compiled in a third of the time, as random numbers for every kernel are much code, which runs once.

    With all optimisations the steel detector's takes 12.7 s, without some of LLVM's 3.9, and gives the same bits.
    JAX takes options only where nothing is being traced.
    """
    initializer = _initializer(module, num_channels)
    has_fewer = bool(jax.config.read("jax_disable_most_optimizations"))
    options = None if has_fewer else {"xla_backend_optimization_level": 1}
    return jax.jit(lambda key: initializer(key), compiler_options=options)


def apply_training(
    module: nn.Module, variables: Mapping[str, Any], image: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    """`module.apply` in training: outputs, and the collection "batch_stats" as the images have changed it.

    On a CPU a tall image is transposed, and with it all kernels and maps, which changes nothing but rounding: XLA gives
    a convolution to several cores only where its rows are long (a step of the steel detector at 704x256: 15 % faster).
    """
    is_transposed = jax.default_backend() == "cpu" and image.shape[1] > image.shape[2]
    if is_transposed:
        variables, image = _transposed(variables), image.swapaxes(1, 2)
    outputs, updated = module.apply(variables, image, train=True, mutable=["batch_stats"])
    outputs = _maps_transposed(outputs) if is_transposed else outputs
    return outputs, dict(updated).get("batch_stats", {})


def _transposed(variables: Mapping[str, Any]) -> dict[str, Any]:
    # Kernels end with [k, k, I, O]; those of repeated blocks may have the number of the block before.
    params = jax.tree.map(lambda x: x.swapaxes(-4, -3) if x.ndim >= 4 else x, variables["params"])
    return {**variables, "params": params}


def _maps_transposed(outputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: x.swapaxes(1, 2) if x.ndim > 2 else x for name, x in outputs.items()}


def apply_inference(apply: Callable[..., Any], variables: Any, images: jax.Array) -> Mapping[str, jax.Array]:
    """`apply(variables, images, train=False)`, on a CPU for a few images of a batch after the other.

    There a batch gains nothing over single images, but its maps leave the caches and need memory: in parts the
    networks here are 6 to 17 % faster. And where XLA's own convolutions serve (`winograd.is_worthwhile`), images are
    transposed if rows of their height fall more evenly on the cores: the steel detector at 1024x384 226 -> 179 ms, at
    704x256 101 -> 93 (two cores of an Intel Xeon).
    """
    if _is_better_transposed(variables, images.shape):
        return _maps_transposed(_apply_in_parts(apply, _transposed(variables), images.swapaxes(1, 2)))
    return _apply_in_parts(apply, variables, images)


def _is_better_transposed(variables: Mapping[str, Any], shape: tuple[int, ...]) -> bool:
    if jax.default_backend() != "cpu" or not processor.has_wide_vectors() or large_kernels.SPECTRA in variables:
        return False
    height, width = shape[1:3]
    return busiest_share(height) < busiest_share(width)


def _apply_in_parts(apply: Callable[..., Any], variables: Any, images: jax.Array) -> Mapping[str, jax.Array]:
    run, num_parts = functools.partial(apply, variables, train=False), num_inference_parts(images.shape)
    if num_parts == 1:
        return run(images)
    outputs = jax.lax.map(run, images.reshape(num_parts, -1, *images.shape[1:]))
    return {name: values.reshape(-1, *values.shape[2:]) for name, values in outputs.items()}


def num_inference_parts(shape: tuple[int, ...]) -> int:
    """In how many equal parts `apply_inference` computes a batch of this shape here."""
    batch, height, width = shape[:3]
    if jax.default_backend() != "cpu" or jax.local_device_count() > 1:  # several devices have their parts already
        return 1
    return min(
        n for n in range(1, batch + 1) if batch % n == 0 and (n == batch or batch // n * height * width <= _PART_PIXELS)
    )


def inference_variables(
    config: ModelConfig,
    variables: Mapping[str, Any],
    *,
    image_size: tuple[int, int],
    large_kernel: LargeKernel = "auto",
) -> dict[str, Any]:
    """The variables of a trained module with what inference can compute ahead of all images: spectra of large kernels.

    Args:
      config: of the module.
      variables: its variables.
      image_size: height and width of the images to come.
      large_kernel: "fft" keeps spectra (94 to 580 MB for SegDecNet's 15x15, by the image's size). "direct" keeps none:
        every call computes what it needs from the kernel, on a CPU as `large_kernel.convolve_on_cpu` chooses. "auto"
        keeps them on CPUs, where an image is large enough to be worth reading them.
    """
    is_wanted = large_kernel == "fft" or (
        large_kernel == "auto" and jax.default_backend() == "cpu" and image_size[0] * image_size[1] >= _MANY_PIXELS
    )
    height, width = (max(side // _STRIDE, 1) for side in image_size)
    if not is_wanted:
        return dict(variables)
    with precision.products(config.dtype):
        return large_kernels.with_spectra(variables, map_size=(height, width))
