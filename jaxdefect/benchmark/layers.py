"""Where the time goes: every layer with a kernel, compiled and timed by itself on inputs of its own shape."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdefect import models
from jaxdefect.benchmark import measure
from jaxdefect.models import large_kernel


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
    inputs: Any  # (arguments, settings); in an array's place its shape
    output_shape: tuple[int, ...]


def time_layers(
    module: nn.Module,
    variables: Mapping[str, Any],
    image: jax.Array,
    *,
    mesh: Mesh,
    is_training: bool,
    repetitions: int,
) -> list[Layer]:
    """Times all layers of a network that have a kernel of their own, in the order in which they are called.

    Shapes are those of `models.apply_training` or `apply_inference`, which on a CPU turns images over or takes a part
    of a batch at a time: then the seconds are those of all parts. A layer by itself cannot be fused with its neighbours
    (nor be followed strip by strip, as `layers.Conv` may be in inference, by one that is left out then), so the sum is
    not the network's time; and the gradient of its input is timed for every layer, which a step leaves out for the
    first, and where gradients are stopped (a SegDecNet's decision network).

    Args:
      module: the network.
      variables: its variables, on all devices.
      image: [B, H, W, C].
      mesh: the devices that share the batch.
      is_training: forward and backward, else forward.
      repetitions: timed calls of each.
    """
    num_parts = 1 if is_training else models.num_inference_parts(image.shape)
    return [
        _time(call, variables, mesh=mesh, is_training=is_training, repetitions=repetitions, num_parts=num_parts)
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
            shape = output.shape
            if settings.pop("then", None) is not None:  # not the layer's own, and full of this trace's arrays
                shape = call(*arguments, **settings).shape
            inputs = jax.tree.map(_shape_of, (arguments, settings))
            found.append(_Call(own.clone(parent=None), path, inputs, shape))
        return output

    def run(variables: Any, image: jax.Array) -> Any:
        if is_training:
            return models.apply_training(module, variables, image)
        return models.apply_inference(module.apply, variables, image)

    with nn.intercept_methods(note):
        jax.eval_shape(run, dict(variables), image)
    return found


def _shape_of(value: Any) -> Any:
    return jax.ShapeDtypeStruct(value.shape, value.dtype) if isinstance(value, jax.Array) else value


def _time(
    call: _Call, variables: Mapping[str, Any], *, mesh: Mesh, is_training: bool, repetitions: int, num_parts: int
) -> Layer:
    own = {name: value for name, tree in variables.items() if (value := _at(tree, call.path)) is not None}
    rng = np.random.default_rng(0)
    leaves, structure = jax.tree.flatten(call.inputs)
    where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.ShapeDtypeStruct)]
    arrays = [jnp.asarray(rng.random(leaves[i].shape, np.float32), leaves[i].dtype) for i in where]
    arrays = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec("data")))  # all are of a batch

    def forward(own: Any, arrays: Any) -> Any:
        values = dict(enumerate(leaves)) | dict(zip(where, arrays, strict=True))
        arguments, settings = jax.tree.unflatten(structure, [values[i] for i in range(len(leaves))])
        outputs = call.module.apply(own, *arguments, **settings, mutable=["batch_stats"] if is_training else False)
        return outputs[0] if is_training else outputs

    def both(own: Any, arrays: Any) -> Any:
        output, pull_back = jax.vjp(
            lambda params, arrays: forward({**own, "params": params}, arrays), own["params"], arrays
        )
        return pull_back(output)

    formulas = {name: tree for name, tree in own.items() if name != large_kernel.SPECTRA}
    wanted = both if is_training else forward
    counted = functools.partial(jax.jit(wanted).trace, formulas, arrays)
    program, _, cost = measure.compile_program(jax.jit(wanted), own, arrays, counted=counted)
    times = measure.time_calls(lambda: program(own, arrays), repetitions=repetitions, is_short=True)
    cost = cost.repeated(num_parts)
    return Layer("/".join(call.path), arrays[0].shape, call.output_shape, num_parts * times.median, cost.flops)


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if name not in tree:
            return None
        tree = tree[name]
    return tree
