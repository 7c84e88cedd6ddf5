"""What of a network's inference depends on its weights alone, computed once instead of with every batch.

Compilers do not do that, as weights are arguments. Of the programs that a GPU is told to start for a batch a tenth to a
half prepare weights: casts, batch norms as factor and shift, kernels in the order that cuDNN reads.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


def for_inference(
    function: Callable[[Any, jax.Array], Any], variables: Any, *, image_shape: tuple[int, ...]
) -> tuple[Callable[[Any, jax.Array], Any], Any]:
    """A compiled function of variables and images, and variables for it: parted on accelerators, on a CPU as they are.

    Args:
      function: compiled; as `hoist` takes it.
      variables: a tree of arrays.
      image_shape: (height, width, channels).
    """
    # On a CPU how a layer is computed depends on the batch, and there is less to gain (U-Net/MobileNetV2: 2 %).
    if jax.default_backend() == "cpu" or not jax.tree.leaves(variables):
        return function, variables
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    prepared, rest = hoist(function, variables, images, platform=jax.default_backend())
    return jax.jit(rest), prepared


def hoist(
    function: Callable[[Any, jax.Array], Any], variables: Any, images: jax.ShapeDtypeStruct, *, platform: str
) -> tuple[list[jax.Array], Callable[[Any, jax.Array], Any]]:
    """Parts a function of variables and images in two.

    Args:
      function: what it computes of the variables alone must not depend on how many images there are.
      variables: a tree of arrays.
      images: the shape of some.
      platform: what is taken of `lax.platform_dependent`: the way for "cpu", or another one's.

    Returns:
      Arrays that depend on the variables alone, and a function of them and of images that gives what `function` does.
    """
    shapes = jax.eval_shape(lambda: variables)

    def prepare(variables: Any) -> list[jax.Array]:
        walk = _Walk(platform)
        walk.run(function, (shapes, images), jax.tree.map(_OfWeights, variables), _OfImages())
        return walk.prepared

    def rest(prepared: Sequence[jax.Array], images: jax.Array) -> Any:
        walk = _Walk(platform, prepared)
        like = shapes, jax.ShapeDtypeStruct(images.shape, images.dtype)
        return walk.run(function, like, jax.tree.map(lambda _: _OfWeights(), shapes), _OfImages(images))

    return jax.jit(prepare)(variables), rest


class _OfWeights:
    """A value that depends on the weights and not on the images; None once these are prepared."""

    def __init__(self, value: Any = None):
        self.value = value


class _OfImages:
    """A value that depends on the images; None while weights are prepared."""

    def __init__(self, value: Any = None):
        self.value = value


class _Walk:
    """Goes through a traced function, once to compute what is `of weights`, then with that given to compute the rest.

    Both meet the same values in the same order, so that a prepared one is known by its number.
    """

    def __init__(self, platform: str, prepared: Sequence[jax.Array] | None = None):
        self.prepared: list[jax.Array] = list(prepared or [])
        self._platform, self._is_preparing = platform, prepared is None
        self._numbers: dict[_OfWeights, int] = {}
        self._in_order: dict[_OfWeights, _OfWeights] = {}

    def run(self, function: Callable[..., Any], like: tuple[Any, Any], variables: Any, images: _OfImages) -> Any:
        """What the function returns; while weights are prepared, nothing."""
        traced, shape = jax.make_jaxpr(function, return_shape=True)(*like)
        results = self._evaluate(traced.jaxpr, traced.consts, [*jax.tree.leaves(variables), images])
        outputs = [self._value(result) for result in results]
        return None if self._is_preparing else jax.tree.unflatten(jax.tree.structure(shape), outputs)

    def _evaluate(self, jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs], strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, jex.Literal) else values[atom]

        for equation in jaxpr.eqns:
            results = self._step(equation, [read(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _step(self, equation: Any, inputs: list[Any]) -> Sequence[Any]:
        name, params = equation.primitive.name, equation.params
        if name in _CALLS:
            inner = params[_CALLS[name]]
            return self._evaluate(inner.jaxpr, inner.consts, inputs)
        if name == "platform_index":
            ways = params["platforms"]
            return [next(i for i, names in enumerate(ways) if names is None or self._platform in names)]
        if name == "cond" and isinstance(inputs[0], int):
            inner = params["branches"][inputs[0]]
            return self._evaluate(inner.jaxpr, inner.consts, inputs[1:])
        kinds = {type(x) for x in inputs}
        kind = _OfImages if _OfImages in kinds else _OfWeights if _OfWeights in kinds else None
        if kind is _OfImages and name == "conv_general_dilated" and isinstance(inputs[1], _OfWeights):
            inputs[1], params = self._with_features_first(inputs[1], params)
        if self._is_preparing and kind is _OfImages:
            for value in inputs:
                self._value(value)
            return [_OfImages() for _ in equation.outvars]
        if not self._is_preparing and kind is _OfWeights:
            return [_OfWeights() for _ in equation.outvars]
        arguments = [x.value if isinstance(x, _OfWeights) and self._is_preparing else self._value(x) for x in inputs]
        results = equation.primitive.bind(*arguments, **params)
        results = results if equation.primitive.multiple_results else [results]
        return results if kind is None else [kind(result) for result in results]

    def _value(self, value: Any) -> Any:
        """The value itself; of weights the prepared one, which they become here."""
        if isinstance(value, _OfImages):
            return value.value
        if not isinstance(value, _OfWeights):
            return value
        if value not in self._numbers:
            self._numbers[value] = len(self._numbers)
            if self._is_preparing:
                self.prepared.append(value.value)
        return self.prepared[self._numbers[value]]

    def _with_features_first(self, kernel: _OfWeights, params: Any) -> tuple[_OfWeights, Any]:
        """A convolution's kernel as cuDNN reads it, [features, k, k, channels], and the convolution's settings."""
        dimensions = params["dimension_numbers"]
        features, channels, *places = dimensions.rhs_spec
        if kernel not in self._in_order:
            value = kernel.value
            self._in_order[kernel] = _OfWeights(
                value if value is None else jnp.transpose(value, (features, *places, channels))
            )
        rank = len(dimensions.rhs_spec)
        changed = dimensions._replace(rhs_spec=(0, rank - 1, *range(1, rank - 1)))
        return self._in_order[kernel], {**params, "dimension_numbers": changed}
