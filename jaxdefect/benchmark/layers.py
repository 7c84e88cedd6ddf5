"""Where the time goes: every layer with a kernel, compiled and timed by itself on inputs of its own shape."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdefect.benchmark import measure


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer: its path in the network, the shapes that it maps, and what one call of it alone takes."""

    path: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    seconds: float
    flops: float | None


@dataclasses.dataclass(frozen=True)
class _Call:
    module: nn.Module
    path: tuple[str, ...]
    arguments: tuple[Any, ...]
    settings: Mapping[str, Any]
    output_shape: tuple[int, ...]


def time_layers(
    module: nn.Module, variables: Mapping[str, Any], image: jax.Array, *, is_training: bool, repetitions: int
) -> list[Layer]:
    """Times all layers of a network that have a kernel of their own, in the order in which they are called.

    A layer by itself cannot be fused with its neighbours, so the sum is not the network's time.

    Args:
      module: the network.
      variables: its variables.
      image: [B, H, W, C].
      is_training: forward and backward, else forward.
      repetitions: timed calls of each.
    """
    return [
        _time(call, variables, is_training=is_training, repetitions=repetitions)
        for call in _calls(module, variables, image, is_training=is_training)
    ]


def _calls(module: nn.Module, variables: Mapping[str, Any], image: jax.Array, *, is_training: bool) -> list[_Call]:
    """What is called with what, found by tracing the network once."""
    found: list[_Call] = []

    def note(call: Callable[..., Any], arguments: Any, settings: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*arguments, **settings)
        own, path = context.module, context.module.path
        has_kernel = context.method_name == "__call__" and own.has_variable("params", "kernel")
        is_inside = any(path[: len(other.path)] == other.path for other in found)
        if has_kernel and not is_inside:
            shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arguments)
            found.append(_Call(own.clone(parent=None), path, shapes, dict(settings), output.shape))
        return output

    with nn.intercept_methods(note):
        mutable = ["batch_stats"] if is_training else False
        jax.eval_shape(lambda v, x: module.apply(v, x, train=is_training, mutable=mutable), dict(variables), image)
    return found


def _time(call: _Call, variables: Mapping[str, Any], *, is_training: bool, repetitions: int) -> Layer:
    own = {name: value for name, tree in variables.items() if (value := _at(tree, call.path)) is not None}
    rng = np.random.default_rng(0)
    inputs = [jnp.asarray(rng.random(x.shape), x.dtype) for x in call.arguments]

    def forward(own: Any, inputs: Any) -> Any:
        outputs = call.module.apply(own, *inputs, **call.settings, mutable=["batch_stats"] if is_training else False)
        return outputs[0] if is_training else outputs

    def both(own: Any, inputs: Any) -> Any:
        output, pull_back = jax.vjp(
            lambda params, inputs: forward({**own, "params": params}, inputs), own["params"], inputs
        )
        return pull_back(output)

    program, _, cost = measure.compile_program(jax.jit(both if is_training else forward), own, inputs)
    times = measure.time_calls(lambda: program(own, inputs), repetitions=repetitions)
    return Layer("/".join(call.path), call.arguments[0].shape, call.output_shape, times.median, cost.flops)


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if name not in tree:
            return None
        tree = tree[name]
    return tree
