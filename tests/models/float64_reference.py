"""The networks' layers in float64 numpy, by loops over taps, nothing of jaxdefect or JAX; and what every test of a
network needs: its parameters' paths and shapes, and values for them that are not the initial ones.
"""

from typing import Any

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxdefect import models


def taps(x: np.ndarray, side: int, dilation: int):
    """(row, column, the pixels [B, H, W, I] that this tap of the kernel sees)."""
    _, height, width, _ = x.shape
    margin = dilation * (side // 2)
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    for i in range(side):
        for j in range(side):
            yield i, j, padded[:, i * dilation :, j * dilation :][:, :height, :width]


def convolve(x: np.ndarray, kernel: np.ndarray, dilation: int = 1) -> np.ndarray:
    return sum(patch @ kernel[i, j] for i, j, patch in taps(x, kernel.shape[0], dilation))


def depthwise(x: np.ndarray, kernel: np.ndarray, dilation: int = 1) -> np.ndarray:
    return sum(patch * kernel[i, j, 0] for i, j, patch in taps(x, kernel.shape[0], dilation))


def up_convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """2x2 transposed convolution with stride 2."""
    batch, height, width, _ = x.shape
    result = np.empty((batch, 2 * height, 2 * width, kernel.shape[-1]))
    for i, j in np.ndindex(2, 2):
        result[:, i::2, j::2] = x @ kernel[i, j]
    return result


def feature_norm(x: np.ndarray, parameters: dict, kind: str = "feature") -> np.ndarray:
    result = np.empty(x.shape)
    for image, channel in np.ndindex(x.shape[0], x.shape[3]):
        pixels = x[image, :, :, channel]
        divisor = pixels.std(ddof=1) + 1e-3 if kind == "feature_official" else pixels.var() + 1e-3
        normal = (pixels - pixels.mean()) / np.sqrt(divisor)
        result[image, :, :, channel] = parameters["scale"][channel] * normal + parameters["bias"][channel]
    return result


def max_pool(x: np.ndarray) -> np.ndarray:
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))


def block_mean(x: np.ndarray, side: int) -> np.ndarray:
    total = sum(x[:, i::side, j::side] for i in range(side) for j in range(side))
    return total / side**2


def resize(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear enlargement, half-pixel centres."""
    channels = [
        [cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in np.moveaxis(image, -1, 0)]
        for image in np.asarray(x, np.float64)
    ]
    return np.moveaxis(np.array(channels), 1, -1)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def shapes(module: nn.Module, *, num_channels: int = 1, collection: str = "params") -> dict[str, Any]:
    """Path of every variable -> its shape and type, without computing it."""
    variables = jax.eval_shape(lambda: models.init(module, num_channels=num_channels, seed=0))
    return traverse_util.flatten_dict(variables.get(collection, {}), sep="/")


def count(module: nn.Module, *, num_channels: int = 1) -> int:
    return sum(leaf.size for leaf in shapes(module, num_channels=num_channels).values())


def describe(modules: dict[str, nn.Module]) -> str:
    """Every parameter's path and shape, for the files that pin them."""
    blocks = []
    for name, module in modules.items():
        lines = [f"{path} {'x'.join(map(str, leaf.shape))}" for path, leaf in sorted(shapes(module).items())]
        blocks.append("\n".join([f"[{name}]", *lines]))
    return "\n\n".join(blocks) + "\n"


def draw(module: nn.Module, *, num_channels: int = 1) -> dict[str, Any]:
    """Random variables that keep the activations' size, norms away from the identity."""
    rng = np.random.default_rng(0)
    variables = {}
    for collection in ("params", "batch_stats"):
        values = {}
        for path, leaf in shapes(module, num_channels=num_channels, collection=collection).items():
            kind = path.rsplit("/", 1)[-1]
            if kind in ("kernel", "depthwise"):
                value = rng.standard_normal(leaf.shape, np.float32) * np.sqrt(2 / np.prod(leaf.shape[-4:-1]))
            elif kind in ("scale", "var"):
                value = rng.uniform(0.5, 1.5, leaf.shape)
            else:
                value = rng.normal(0, 0.1, leaf.shape)
            values[path] = value.astype(np.float32)
        if values:
            variables[collection] = traverse_util.unflatten_dict(values, sep="/")
    return variables


def draw_with_identity_norms(module: nn.Module, *, num_channels: int) -> dict[str, Any]:
    """Variables without compiling the initialisation: identity norms, kernels that keep the activations' size."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: models.init(module, num_channels=num_channels, seed=0))

    def value(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key == "kernel":
            return rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape).astype(np.float32)
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    return jax.tree_util.tree_map_with_path(value, shapes)


def assert_gradients_are_finite(module: nn.Module, *, num_channels: int = 1) -> None:
    """At the initial values, in training, on noise and on constant images; on noise no parameter is left without one.

    Except under the decision network: at this size its last map has one pixel, of which feature norm leaves nothing.
    """
    variables = models.init(module, num_channels=num_channels, seed=0)
    noise = np.random.default_rng(0).uniform(size=(1, 64, 64, num_channels)).astype(np.float32)

    @jax.jit
    def gradient(parameters: dict, image: jax.Array) -> dict:
        def loss(parameters: dict) -> jax.Array:
            outputs, _ = module.apply({**variables, "params": parameters}, image, train=True, mutable=["batch_stats"])
            return jnp.mean(outputs["segmentation"] ** 2) + jnp.mean(outputs["decision"] ** 2)

        return jax.grad(loss)(parameters)

    for image in (noise, np.full_like(noise, 0.5), np.zeros_like(noise)):
        gradients = traverse_util.flatten_dict(gradient(variables["params"], image), sep="/")
        assert all(np.isfinite(leaf).all() for leaf in gradients.values())
        if image is noise:
            unreached = [path for path, leaf in gradients.items() if not np.any(leaf)]
            assert [path for path in unreached if not path.startswith("decision/")] == []


def decision(features: np.ndarray, logit_map: np.ndarray, parameters: dict) -> np.ndarray:
    """SegDecNet's decision network with 5x5 kernels, feature norm and the logit itself as input."""
    x = np.concatenate([features, logit_map], axis=-1)
    for number in (1, 2, 3):
        where = parameters[f"conv{number}"]
        x = relu(feature_norm(convolve(max_pool(x), where["kernel"]), where["norm"]))
    pooled = [x.max((1, 2)), x.mean((1, 2)), logit_map.max((1, 2)), logit_map.mean((1, 2))]
    return (np.concatenate(pooled, axis=-1) @ parameters["head"]["kernel"] + parameters["head"]["bias"])[:, 0]


def assert_bfloat16_is_near_float32(rounded: nn.Module, exact: nn.Module) -> None:
    """The same network with `dtype` "bfloat16" and "float32": near, not equal, float32 outside."""
    assert {leaf.dtype for leaf in shapes(rounded).values()} == {np.dtype("float32")}
    image = np.random.default_rng(1).uniform(0, 1, (1, 64, 64, 1)).astype(np.float32)
    variables = draw(exact)
    expected, outputs = (jax.jit(module.apply)(variables, image) for module in (exact, rounded))
    for name in ("segmentation", "probability", "decision"):
        assert outputs[name].dtype == jnp.float32
    error = np.abs(outputs["segmentation"] - expected["segmentation"]).mean() / np.abs(expected["segmentation"]).mean()
    assert 0 < error < 0.1  # 0 would mean that nothing was computed in bfloat16
