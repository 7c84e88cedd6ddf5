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
Step = Callable[[Any, list[Any]], Sequence[Any]]  # an equation of a traced program, its operands -> its results


def walk(jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Any], *, platform: str, step: Step) -> list[Any]:
    """The outputs of a traced program whose equations `step` computes, those of inner functions like its own.

    What `lax.platform_dependent` leaves to the platform is decided: the way for "cpu", or another one's.
    """
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex.Literal) else values[atom]

    for equation in jaxpr.eqns:
        name, params, operands = equation.primitive.name, equation.params, [read(atom) for atom in equation.invars]
        inner = params[_CALLS[name]] if name in _CALLS else None
        if name == "cond" and isinstance(operands[0], int):
            inner, operands = params["branches"][operands[0]], operands[1:]
        if name == "platform_index":
            ways = params["platforms"]
            results: Sequence[Any] = [next(i for i, names in enumerate(ways) if names is None or platform in names)]
        elif inner is not None:
            results = walk(inner.jaxpr, inner.consts, operands, platform=platform, step=step)
        else:
            results = step(equation, operands)
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def bind(equation: Any, operands: Sequence[Any], params: Any = None) -> Sequence[Any]:
    """Computes an equation, with other settings if they are given."""
    results = equation.primitive.bind(*operands, **(equation.params if params is None else params))
    return results if equation.primitive.multiple_results else [results]


def for_inference(
    function: Callable[[Any, jax.Array], Any], variables: Any, *, image_shape: tuple[int, ...]
) -> tuple[Callable[[Any, jax.Array], Any], Any]:
    """A compiled function of variables and images, and variables for it: parted on accelerators, on a CPU as they are.

    What is inside a loop stays there: of an ensemble, whose members run in one, nothing is gained.

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
        parting = _Parting(platform)
        parting.run(function, (shapes, images), jax.tree.map(_OfWeights, variables), _OfImages())
        return parting.prepared

    def rest(prepared: Sequence[jax.Array], images: jax.Array) -> Any:
        parting = _Parting(platform, prepared)
        like = shapes, jax.ShapeDtypeStruct(images.shape, images.dtype)
        outputs = parting.run(function, like, jax.tree.map(lambda _: _OfWeights(), shapes), _OfImages(images))
        parting.check_all_are_used()
        return outputs

    return jax.jit(prepare)(variables), rest


class _OfWeights:
    """A value that depends on the weights and not on the images; None once these are prepared."""

    def __init__(self, value: Any = None):
        self.value = value


class _OfImages:
    """A value that depends on the images; None while weights are prepared."""

    def __init__(self, value: Any = None):
        self.value = value


class _Parting:
    """Goes through a traced function, once to compute what is `of weights`, then with that given to compute the rest.

    Both meet the same values in the same order, so that a prepared one is known by its number.
    """

    def __init__(self, platform: str, prepared: Sequence[jax.Array] | None = None):
        self.prepared: list[jax.Array] = list(prepared or [])
        self._platform, self._is_preparing = platform, prepared is None
        self._numbers: dict[_OfWeights, int] = {}
        self._in_order: dict[tuple[_OfWeights, tuple[int, ...]], _OfWeights] = {}

    def run(self, function: Callable[..., Any], like: tuple[Any, Any], variables: Any, images: _OfImages) -> Any:
        """What the function returns; while weights are prepared, nothing."""
        traced, shape = jax.make_jaxpr(function, return_shape=True)(*like)
        inputs = [*jax.tree.leaves(variables), images]
        results = walk(traced.jaxpr, traced.consts, inputs, platform=self._platform, step=self._step)
        outputs = [self._value(result) for result in results]
        return None if self._is_preparing else jax.tree.unflatten(jax.tree.structure(shape), outputs)

    def check_all_are_used(self) -> None:
        """Raises RuntimeError where the function computes other things of the variables for these images."""
        if len(self._numbers) != len(self.prepared):
            raise RuntimeError(f"{len(self.prepared)} arrays were prepared, and {len(self._numbers)} are used")

    def _step(self, equation: Any, inputs: list[Any]) -> Sequence[Any]:
        kinds = {type(x) for x in inputs}
        kind = _OfImages if _OfImages in kinds else _OfWeights if _OfWeights in kinds else None
        params = equation.params
        is_convolution = equation.primitive.name == "conv_general_dilated"
        if is_convolution and kind is _OfImages and isinstance(inputs[1], _OfWeights):
            inputs[1], params = self._with_features_first(inputs[1], params)
        if self._is_preparing and kind is _OfImages:
            for value in inputs:
                self._value(value)
            return [_OfImages() for _ in equation.outvars]
        if not self._is_preparing and kind is _OfWeights:
            return [_OfWeights() for _ in equation.outvars]
        arguments = [x.value if isinstance(x, _OfWeights) and self._is_preparing else self._value(x) for x in inputs]
        results = bind(equation, arguments, params)
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
        order = (features, *places, channels)
        if (kernel, order) not in self._in_order:
            value = kernel.value
            self._in_order[kernel, order] = _OfWeights(value if value is None else jnp.transpose(value, order))
        rank = len(dimensions.rhs_spec)
        changed = dimensions._replace(rhs_spec=(0, rank - 1, *range(1, rank - 1)))
        return self._in_order[kernel, order], {**params, "dimension_numbers": changed}
