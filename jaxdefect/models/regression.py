"""Deep regression of defect severity, stage 1 of four (He & Liu 2020, figures 3 and 4, tables 1 to 3).

Ours, where the paper is silent: the first two convolutions and the 3x3 with 512 channels have a bias and a ReLU; those
of the residual stages have no bias; a stage's shortcut starts from the first normalised and activated map (He et al.
2016, pre-activation); after the last stage stand the batch norm and ReLU that such a network ends with; pooling
averages only the pixels inside the image.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxdefect.model_config import RegressionConfig, check_image_size
from jaxdefect.models.layers import BatchNorm, Conv, score_logit
from jaxdefect.models.precision import array_dtype, with_precision
from jaxdefect.types import MAX_SEVERITY

_MOMENTUM = 0.9  # of the running averages: Flax's 0.99 lags behind for hundreds of steps, and validation with it


def _pool(x: jax.Array, stride: int) -> jax.Array:
    """Mean over the pixels of 3x3 that are inside: [B, H, W, C] -> [B, H/stride, W/stride, C]."""
    pads = lax.padtype_to_pads(x.shape[1:3], (3, 3), (stride, stride), "SAME")
    # Not `nn.avg_pool`, which has XLA count the pixels while it compiles, for seconds.
    rows, columns = (
        [min(start + 3, side) - max(start, 0) for start in range(-before, side + after - 2, stride)]
        for side, (before, after) in zip(x.shape[1:3], pads, strict=True)
    )
    counts = jnp.asarray(rows, x.dtype)[:, None, None] * jnp.asarray(columns, x.dtype)[:, None]
    return jnp.divide(_sums(x, stride), counts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _sums(x: jax.Array, stride: int) -> jax.Array:
    """The sum of every 3x3. On a CPU shifted maps take half the time of XLA's windows, whose gradient is the faster."""
    return lax.platform_dependent(
        x,
        cpu=functools.partial(_sums_of_shifts, stride=stride),
        default=functools.partial(_sums_of_windows, stride=stride),
    )


def _sums_of_windows(x: jax.Array, *, stride: int) -> jax.Array:
    return nn.pool(x, 0.0, lax.add, (3, 3), (stride, stride), "SAME")


def _sums_of_shifts(x: jax.Array, *, stride: int) -> jax.Array:
    for axis in (1, 2):
        (pads,) = lax.padtype_to_pads(x.shape[axis : axis + 1], (3,), (stride,), "SAME")
        padded = jnp.pad(x, [pads if i == axis else (0, 0) for i in range(x.ndim)])
        stop = padded.shape[axis] - 2
        x = functools.reduce(lax.add, [lax.slice_in_dim(padded, i, stop + i, stride, axis) for i in range(3)])
    return x


def _sums_backward(stride: int, x: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    return jax.vjp(functools.partial(_sums_of_windows, stride=stride), x)[1](cotangent)


_sums.defvjp(lambda x, stride: (_sums(x, stride), x), _sums_backward)


class Activation(nn.Module):
    """Batch norm and ReLU."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return nn.relu(BatchNorm(momentum=_MOMENTUM, dtype=self.dtype, name="norm")(x, train=train))


class ResidualStage(nn.Module):
    """Two pre-activation bottlenecks (1x1, 5x5, 5x5), the first with a 1x1 shortcut: [B, H, W, I] -> [B, H, W, wide].

    `conv1` to `conv7` are numbered as in tables 2 and 3.
    """

    narrow: int
    wide: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = self._activate(x, 1, train=train)
        residual = self._bottleneck(x, 1, train=train)
        x = residual + self._conv(x, 4, self.wide, 1)
        return x + self._bottleneck(self._activate(x, 5, train=train), 5, train=train)

    def _bottleneck(self, x: jax.Array, first: int, *, train: bool) -> jax.Array:
        x = self._conv(x, first, self.narrow, 1)
        x = self._conv(self._activate(x, first + 1, train=train), first + 1, self.narrow, 5)
        return self._conv(self._activate(x, first + 2, train=train), first + 2, self.wide, 5)

    def _activate(self, x: jax.Array, number: int, *, train: bool) -> jax.Array:
        return Activation(self.dtype, name=f"activation{number}")(x, train=train)

    def _conv(self, x: jax.Array, number: int, features: int, kernel: int) -> jax.Array:
        return Conv(features, kernel, use_bias=False, dtype=self.dtype, name=f"conv{number}")(x)


class Regression(nn.Module):
    """Image [B, H, W, C] in [0, 1] -> the contract of `jaxdefect.models`, one value per cell of 4x4 or 2x2 pixels.

    "segmentation": the severity itself, linear, trained towards targets in [0, 12]. "probability": severity / 12,
    clipped to [0, 1]. "decision": of the map's maximum (or mean).

    Raises:
      InputError: H or W is not a multiple of 4, or below 64.
    """

    config: RegressionConfig

    @with_precision
    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        config, dtype = self.config, array_dtype(self.config.dtype)
        check_image_size(image.shape[1], image.shape[2], step=config.size_step)
        x = BatchNorm(momentum=_MOMENTUM, dtype=dtype, name="input_norm")(image, train=train)
        x = nn.relu(Conv(16, 5, dtype=dtype, name="conv1")(x))
        x = _pool(x, 2)
        x = nn.relu(Conv(16, 3, dtype=dtype, name="conv2")(x))
        x = _pool(x, config.cell_px // 2)
        x = ResidualStage(8, 32, dtype, name="stage1")(x, train=train)
        x = ResidualStage(16, 64, dtype, name="stage2")(x, train=train)
        x = Activation(dtype, name="activation")(x, train=train)
        conv3, last = Conv(512, 3, dtype=dtype, name="conv3"), Conv(1, 1, name="severity")
        if train:
            severity = last(nn.relu(conv3(x)).astype(jnp.float32))
        else:
            finish = last.function(512)
            severity = conv3(x, then=lambda x: finish(nn.relu(x).astype(jnp.float32)))
        probability = jnp.clip(severity[..., 0] / MAX_SEVERITY, 0.0, 1.0)
        decision = score_logit(probability, config.score)
        return {"segmentation": severity, "probability": probability, "decision": decision}
