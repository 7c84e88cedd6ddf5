"""Blocks that the architectures share: convolutions, norms, squeeze-and-excitation."""

import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxdefect.models import large_kernel
from jaxdefect.models.convolution import convolve, convolve_then
from jaxdefect.models.xla import wait_for

Norm = Literal["feature", "feature_official", "batch"]
NORM_EPSILON = 1e-3


def max_pool(x: jax.Array) -> jax.Array:
    """2x2 max-pooling with stride 2: [B, H, W, C] -> [B, H/2, W/2, C]; an odd last row or column is left out.

    The gradient goes to the first maximum of each four, as usual; XLA's own way to find it takes six times as long on a
    CPU.
    """
    height, width = x.shape[1:3]
    return _max_pool_even(x[:, : height // 2 * 2, : width // 2 * 2])


@jax.custom_vjp
def _max_pool_even(x: jax.Array) -> jax.Array:
    rows = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])


def _max_pool_backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    # Compares the values of a square with each other, not with the maximum of the forward pass: XLA may compute them
    # anew and round them otherwise, and then most equal none.
    x = wait_for(gradient, x)
    columns = [jnp.where(x[:, i::2, 1::2] > x[:, i::2, ::2], 1, 0) for i in (0, 1)]
    upper, lower = (jnp.maximum(x[:, i::2, ::2], x[:, i::2, 1::2]) for i in (0, 1))
    place = jnp.where(lower > upper, 2 + columns[1], columns[0])  # of the first maximum, by rows
    rows = [jnp.stack([jnp.where(place == 2 * i + j, gradient, 0) for j in (0, 1)], axis=3) for i in (0, 1)]
    return (jnp.stack(rows, axis=2).reshape(x.shape),)


_max_pool_even.defvjp(lambda x: (_max_pool_even(x), x), _max_pool_backward)


@jax.custom_vjp
def global_max(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, C]; the gradient goes to the first maximum.

    The derived one compares with a maximum that XLA may round otherwise, finds none, and divides 0 by 0.
    """
    return jnp.max(x, axis=(1, 2))


def _global_max_backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    places = x.reshape(x.shape[0], x.shape[1] * x.shape[2], x.shape[3])
    is_first = jnp.arange(places.shape[1])[:, None] == jnp.argmax(places, axis=1, keepdims=True)
    return (jnp.where(is_first, gradient[:, None], 0).reshape(x.shape),)


global_max.defvjp(lambda x: (global_max(x), x), _global_max_backward)


def score_logit(probability: jax.Array, kind: Literal["mean", "max"], *, logit: jax.Array | None = None) -> jax.Array:
    """The logit of an image's score, the mean or maximum of its map, where no layer is trained for it.

    Args:
      probability: [B, h, w] in [0, 1].
      kind: which.
      logit: [B, h, w], of the map, if it has one: the largest is exact where the probability rounds to 1.

    Returns:
      [B] float32, finite, no gradient: sigmoid(logit) is the score.
    """
    if kind == "max" and logit is not None:
        return lax.stop_gradient(jnp.max(logit.astype(jnp.float32), axis=(1, 2)))
    reduce = {"mean": jnp.mean, "max": jnp.max}[kind]
    score = jnp.clip(reduce(probability.astype(jnp.float32), axis=(1, 2)), 1e-30, 1 - 1e-7)
    return lax.stop_gradient(jnp.log(score) - jnp.log1p(-score))


class _Kind(NamedTuple):
    """Which norm: over which axes of [B, H, W, C], with which epsilon; whether of the root of the unbiased variance."""

    axes: tuple[int, ...]
    epsilon: float = NORM_EPSILON
    is_official: bool = False

    def count(self, shape: tuple[int, ...]) -> int:
        """How many values of a map [B, H, W, C] have a mean in common."""
        return math.prod(shape[axis] for axis in self.axes)

    def factor(self, variance: jax.Array, count: int) -> jax.Array:
        """What the distance from the mean is multiplied with, of the biased variance of `count` values: same shape."""
        if not self.is_official:
            return lax.rsqrt(variance + self.epsilon)
        variance = variance * (count / max(count - 1, 1))
        # The square root's slope at 0 is infinite; a constant channel must have gradient 0, not NaN.
        deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
        return lax.rsqrt(deviation + self.epsilon)


def feature_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, is_official: bool) -> jax.Array:
    """What `FeatureNorm` computes: x [B, H, W, C], scale and bias [C] -> [B, H, W, C]."""
    return _normalize(x, scale, bias, None, _Kind((1, 2), is_official=is_official))[0]


_Normalized = tuple[jax.Array, jax.Array, jax.Array]


def _normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, near: jax.Array | None, kind: _Kind) -> _Normalized:
    """The normalised map [B, H, W, C], mean and biased variance as `_moments`; through these two goes no gradient.

    The gradient is written out, in two passes over the map; the derived one takes twice as long on a CPU.
    """
    return cast(_Normalized, _normalize_by_hand(x, scale, bias, near, kind))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _normalize_by_hand(
    x: jax.Array, scale: jax.Array, bias: jax.Array, near: jax.Array | None, kind: _Kind
) -> _Normalized:
    return _normalize_forward(x, scale, bias, near, kind)[0]


def _moments(x: jax.Array, near: jax.Array | None, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Distance from the mean, [B, H, W, C] float32; mean and biased variance, of length 1 along the axes.

    `near`: [C], about the mean, if it is known.
    """
    values = x.astype(jnp.float32)
    in_turn, at_once = (functools.partial(way, axes=axes) for way in (_moments_in_turn, _moments_at_once))
    mean, variance = lax.platform_dependent(values, near, cpu=in_turn, default=at_once)
    # Not what the variance is made of: XLA would write it out, as it is used twice, and read it again.
    return values - wait_for(variance, mean), mean, variance


def _moments_in_turn(values: jax.Array, _: jax.Array | None, *, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance. A CPU computes one sum at a time anyway."""
    mean = jnp.mean(values, axis=axes, keepdims=True)
    return mean, jnp.mean(jnp.square(values - mean), axis=axes, keepdims=True)


def _moments_at_once(
    values: jax.Array, near: jax.Array | None, *, axes: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """The same from two sums that XLA computes in one pass over the map.

    They are sums of distances from what is near the mean, else from that of some pixels, so that the squares do not
    cancel out: with a mean of a thousand standard deviations errors are as before, 1e-7 of the variance, and 4e-4 where
    all those pixels are outliers (at 1408x512).
    """
    if near is None:
        rows, columns = (max(side // 8, 1) for side in values.shape[1:3])
        near = jnp.mean(values[:, ::rows, ::columns], axis=axes, keepdims=True)
    distance = jnp.mean(values - near, axis=axes, keepdims=True)
    square = jnp.mean(jnp.square(values - near), axis=axes, keepdims=True)
    return near + distance, jnp.maximum(square - jnp.square(distance), 0)


_NormResiduals = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array | None]


def _normalize_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, near: jax.Array | None, kind: _Kind
) -> tuple[_Normalized, _NormResiduals]:
    centered, mean, variance = _moments(x, near, kind.axes)
    normalized = (centered * (kind.factor(variance, kind.count(x.shape)) * scale) + bias).astype(x.dtype)
    return (normalized, mean, variance), (x, mean, variance, scale, bias, near)


def _normalize_backward(
    kind: _Kind, residuals: _NormResiduals, gradients: _Normalized
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    x, mean, variance, scale, bias, near = residuals
    count = kind.count(x.shape)
    gradient = gradients[0].astype(jnp.float32)
    # Not the forward pass's own difference: XLA would write that out for the variance, as it is used twice.
    centered = x.astype(jnp.float32) - wait_for(gradient, mean)
    mean_gradient = jnp.mean(gradient, axis=kind.axes, keepdims=True)
    # Not of `centered`: XLA would keep that from the forward pass on beside x, a third of a training step's memory.
    product = jnp.mean(gradient * x.astype(jnp.float32), axis=kind.axes, keepdims=True)
    correlation = product - mean * mean_gradient
    factor, pull_back = jax.vjp(functools.partial(kind.factor, count=count), variance)
    (slope,) = pull_back(2.0 * scale * correlation)  # a pixel moves the variance by 2 / count of its distance
    to_x = (gradient - mean_gradient) * (factor * scale) + centered * slope
    to_scale = count * jnp.sum(correlation * factor, axis=(0, 1, 2))
    to_bias = count * jnp.sum(mean_gradient, axis=(0, 1, 2))
    to_near = None if near is None else jnp.zeros_like(near)  # it changes nothing but rounding
    return to_x.astype(x.dtype), to_scale.astype(scale.dtype), to_bias.astype(bias.dtype), to_near


_normalize_by_hand.defvjp(_normalize_forward, _normalize_backward)


class FeatureNorm(nn.Module):
    """Affine normalisation of each image and channel over its pixels: [B, H, W, C] -> [B, H, W, C].

    What batch norm does at batch 1 in training mode, in evaluation too (Tabernik 2019, as published).
    With `is_official`, the published joint-training code's: (x - mean) / sqrt(standard deviation + eps), unbiased.
    Statistics are float32 whatever the input.
    """

    is_official: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        return feature_norm(x, scale, bias, self.is_official)


class BatchNorm(nn.Module):
    """Batch norm (Ioffe & Szegedy 2015): [B, H, W, C] -> [B, H, W, C] in `dtype`; variables and numbers of Flax's own.

    In training the mean and biased variance of the batch, which "batch_stats" follow with `momentum`; else those.
    Its gradient is that of `feature_norm`.
    """

    epsilon: float = NORM_EPSILON
    momentum: float = 0.99
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        averages = [self.variable("batch_stats", "mean", jnp.zeros, shape)]
        averages.append(self.variable("batch_stats", "var", jnp.ones, shape))
        if not train:
            mean, variance = (average.value for average in averages)
            factor = lax.rsqrt(variance + self.epsilon) * scale
            return ((x.astype(jnp.float32) - mean) * factor + bias).astype(self.dtype)
        # Near the running average, which devices that share the batch need not exchange.
        normalized, *moments = _normalize(x, scale, bias, averages[0].value, _Kind((0, 1, 2), self.epsilon))
        if not self.is_initializing():
            for average, moment in zip(averages, moments, strict=True):
                average.value = self.momentum * average.value + (1 - self.momentum) * moment.reshape(shape)
        return normalized.astype(self.dtype)


def normalize(x: jax.Array, *, norm: Norm, train: bool, name: str = "norm") -> jax.Array:
    """Normalises [B, H, W, C] by a submodule `name` of the module that is being called."""
    if norm == "batch":
        return BatchNorm(dtype=x.dtype, name=name)(x, train=train)
    return FeatureNorm(norm == "feature_official", name=name)(x)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """A map [B, H, W, C] and a bias [C] float32 -> [B, H, W, C] in the map's type.

    The bias's gradient is summed in float32. The derived sum is of the map's type: in bfloat16 it stops at 256 times
    one of its terms.
    """
    return x + bias.astype(x.dtype)


def _add_bias_backward(bias: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gradient, jnp.sum(gradient, axis=(0, 1, 2), dtype=jnp.float32).astype(bias.dtype)


add_bias.defvjp(lambda x, bias: (add_bias(x, bias), bias), _add_bias_backward)


class SqueezeExcitation(nn.Module):
    """Channel attention (Hu 2018): x * sigmoid(W2 relu(W1 mean(x))), both layers with bias."""

    reduction: int = 16
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        pooled = jnp.mean(x, axis=(1, 2), dtype=jnp.float32).astype(self.dtype)
        hidden = nn.relu(nn.Dense(channels // self.reduction, dtype=self.dtype, name="squeeze")(pooled))
        gate = nn.sigmoid(nn.Dense(channels, dtype=self.dtype, name="excite")(hidden))
        gate = gate.astype(jnp.float32)[:, None, None, :]  # so that its gradient is summed over all pixels in float32
        return (x.astype(jnp.float32) * gate).astype(x.dtype)


class Conv(nn.Module):
    """Convolution of an odd kernel: [B, H, W, I] -> [B, H, W, features]; parameters as `nn.Conv`.

    In inference `then` may be what takes each pixel of the result by itself, [..., features] -> [..., any number]. It
    is called inside of JAX's loops, where no module can be: what it needs of another is that one's `function`.
    """

    features: int
    kernel: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_normal()
    dtype: jax.typing.DTypeLike = jnp.float32

    def __call__(self, x: jax.Array, *, then: Callable[[jax.Array], jax.Array] | None = None) -> jax.Array:
        return self.function(x.shape[-1], then=then)(x)

    @nn.compact
    def function(
        self, channels: int, *, then: Callable[[jax.Array], jax.Array] | None = None
    ) -> Callable[[jax.Array], jax.Array]:
        """What the module does with a map of so many channels."""
        kernel = self.param("kernel", self.kernel_init, (self.kernel, self.kernel, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None

        def finish(x: jax.Array) -> jax.Array:
            x = x if bias is None else add_bias(x, bias)
            return x if then is None else then(x)

        def convolved(x: jax.Array) -> jax.Array:
            x, taps = x.astype(self.dtype), kernel.astype(self.dtype)
            return finish(convolve(x, taps)) if then is None else convolve_then(x, taps, finish)

        return convolved


class ConvNorm(nn.Module):
    """Convolution without bias, norm, and (unless it makes logits) ReLU: [B, H, W, I] -> [B, H, W, features]."""

    features: int
    kernel: int
    dilation: int = 1
    norm: Norm = "feature"
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_normal()
    dtype: jax.typing.DTypeLike = jnp.float32
    is_logit: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        # What `models.inference_variables` computed ahead, where the kernel is large.
        has_spectrum = self.has_variable(large_kernel.SPECTRA, "kernel")
        spectrum = self.get_variable(large_kernel.SPECTRA, "kernel") if has_spectrum else None
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        x = convolve(x, kernel, dilation=self.dilation, kernel_spectrum=spectrum)
        x = normalize(x, norm=self.norm, train=train)
        return x if self.is_logit else nn.relu(x)
