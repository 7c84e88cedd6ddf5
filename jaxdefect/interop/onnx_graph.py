"""A JAX function as an ONNX graph: traced once, then every operation is written as ONNX has it.

Why not a converter package: the ones there are replace functions of JAX and Flax while they trace, fail on
`lax.platform_dependent`, and bring dozens of packages. The networks here use some forty operations.

- The number of images stays open: the function is traced for a number of images that is a large prime, so a dimension
  that it divides is a multiple of the number of images, and no other is.
- What does not depend on the image is computed here and stored as a constant: weights in ONNX's layout, the matrices
  of resizing.
- Of `lax.platform_dependent` the branch for all other platforms is taken: plain convolutions, for which a runtime has
  its own tuned code.
- Loops of known length (`lax.scan`, `lax.map`) are unrolled.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import numpy as np
import onnx

from jaxdefect.types import InputError

OPSET, IR_VERSION = 18, 8  # of 2022: every runtime of the last years reads them
_BATCH_NAME = "batch"
_BATCH = 1_000_003
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """A value of the traced program: a tensor of the graph by name, or a constant that is not in the graph yet.

    `shape`: what the program takes it for. `stored`: what is there, with 1 where it is still to be broadcast.
    """

    shape: tuple[int, ...]
    stored: tuple[int, ...]
    dtype: np.dtype
    name: str = ""
    array: np.ndarray | None = None

    @property
    def whole(self) -> np.ndarray:
        """A constant at its whole shape."""
        assert self.array is not None
        return np.broadcast_to(self.array, self.shape)


# (graph, parameters of the operation, its operands, shape and dtype of the result) -> the result
Operator = Callable[["Graph", Mapping[str, Any], Sequence[Value], Any], Value]


def depends_on_batch(size: int) -> bool:
    """Whether a dimension is a multiple of the open number of images."""
    return size % _BATCH == 0


class Graph:
    """The nodes and constants written so far."""

    def __init__(self, operators: Mapping[str, Operator]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._operators = operators
        self._constants: dict[tuple[Any, ...], str] = {}

    def add(self, operation: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Writes a node with one output; its name."""
        name = f"{operation}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operation, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """Stores a constant; equal ones once."""
        array = np.ascontiguousarray(np.asarray(values, dtype)).reshape(np.shape(values))
        key = (array.dtype.str, array.shape, hashlib.sha256(array.data).digest())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self.initializers.append(onnx.numpy_helper.from_array(array, name))
            self._constants[key] = name
        return self._constants[key]

    def name(self, value: Value) -> str:
        """The tensor as it is stored, for operations that broadcast by themselves."""
        return value.name if value.array is None else self.constant(value.array, value.dtype)

    def full(self, value: Value) -> str:
        """The tensor at its whole shape, for operations that do not broadcast."""
        if value.stored == value.shape:
            return self.name(value)
        # `Expand` broadcasts both ways: 1 leaves a dimension as it is.
        wanted = [1 if stored == size else size for stored, size in zip(value.stored, value.shape, strict=True)]
        if any(map(depends_on_batch, wanted)):
            raise _untranslatable("a constant for every image")
        return self.add("Expand", [self.name(value), self.constant(wanted)])

    def run(self, jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Value]) -> list[Value]:
        """Writes a traced program; the values of its outputs."""
        values = dict(zip(jaxpr.constvars, map(from_array, constants), strict=True))
        values.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Value:
            is_literal = isinstance(atom, jex.Literal)
            return from_array(np.asarray(atom.val, _dtype(atom))) if is_literal else values[atom]

        for equation in jaxpr.eqns:
            results = self._step(equation, [read(atom) for atom in equation.invars])
            values.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _step(self, equation: Any, inputs: list[Value]) -> list[Value]:
        name, params = equation.primitive.name, equation.params
        if name in _CALLS:
            inner = params[_CALLS[name]]
            return self.run(inner.jaxpr, inner.consts, inputs)
        if name == "platform_index":
            branches = [platforms is None for platforms in params["platforms"]]
            return [from_array(np.asarray(branches.index(True), np.int32))]
        if name == "cond" and inputs[0].array is not None:
            inner = params["branches"][int(inputs[0].array)]
            return self.run(inner.jaxpr, inner.consts, inputs[1:])
        if name == "scan":
            return self._unroll(equation, inputs)
        result = equation.outvars[0].aval
        is_open = any(depends_on_batch(size) for outvar in equation.outvars for size in outvar.aval.shape)
        if name != "broadcast_in_dim" and not is_open and all(value.array is not None for value in inputs):
            return _compute(equation, inputs)
        if name not in self._operators:
            raise _untranslatable(name)
        return [self._operators[name](self, params, inputs, result)]

    def _unroll(self, equation: Any, inputs: list[Value]) -> list[Value]:
        params, inner = equation.params, equation.params["jaxpr"]
        # Which operands are constants, carried, or a row a step is told from their ranks inside and outside: the
        # parameters that say it change with JAX's version. They come in this order.
        is_row = [len(value.shape) > aval.ndim for value, aval in zip(inputs, inner.in_avals, strict=True)]
        is_carried = [
            outvar.aval.ndim == aval.ndim for outvar, aval in zip(equation.outvars, inner.out_avals, strict=True)
        ]
        num_carried, num_fixed = sum(is_carried), len(inputs) - sum(is_row)
        stacked, constants = inputs[num_fixed:], inputs[: num_fixed - num_carried]
        carried, rows = inputs[num_fixed - num_carried : num_fixed], []
        steps = range(params["length"])
        for step in reversed(steps) if params["reverse"] else steps:
            parts = [self._part(value, step) for value in stacked]
            outputs = self.run(inner.jaxpr, inner.consts, [*constants, *carried, *parts])
            carried = outputs[:num_carried]
            rows.append(outputs[num_carried:])
        if params["reverse"]:
            rows.reverse()
        return [*carried, *(stack(self, column, axis=0) for column in zip(*rows, strict=True))]

    def _part(self, value: Value, index: int) -> Value:
        if value.array is not None:
            return from_array(value.whole[index])
        name = self.add("Gather", [self.full(value), self.constant(index)], axis=0)
        return from_name(name, value.shape[1:], value.dtype)


def from_array(array: Any) -> Value:
    """A constant."""
    array = np.asarray(array)
    return Value(array.shape, array.shape, array.dtype, array=array)


def from_name(name: str, shape: tuple[int, ...], dtype: Any, *, stored: tuple[int, ...] | None = None) -> Value:
    """A tensor of the graph."""
    return Value(shape, shape if stored is None else stored, np.dtype(dtype), name=name)


def stack(graph: Graph, values: Sequence[Value], *, axis: int) -> Value:
    """Values of one shape along a new axis."""
    axes = graph.constant([axis])
    parts = [graph.add("Unsqueeze", [graph.full(value), axes]) for value in values]
    shape = (*values[0].shape[:axis], len(values), *values[0].shape[axis:])
    return from_name(graph.add("Concat", parts, axis=axis), shape, values[0].dtype)


def convert(
    function: Callable[[jax.Array], Mapping[str, jax.Array]],
    *,
    image_shape: tuple[int, int, int],
    batch: int | None,
    operators: Mapping[str, Operator],
) -> onnx.ModelProto:
    """Writes `function` as a checked ONNX model with the input "image" and an output for each key of its result.

    Args:
      function: images [B, H, W, C] float32 -> named arrays.
      image_shape: H, W, C.
      batch: B; None leaves it open.
      operators: how each operation is written, by its JAX name.

    Raises:
      InputError: an operation that has no translation.
    """
    shape = (batch or _BATCH, *image_shape)
    closed, outputs = jax.make_jaxpr(function, return_shape=True)(jax.ShapeDtypeStruct(shape, np.float32))
    graph = Graph(operators)
    results = graph.run(closed.jaxpr, closed.consts, [from_name("image", shape, np.float32)])
    described = [_describe("image", shape)]
    for (name, output), value in zip(sorted(outputs.items()), results, strict=True):
        graph.nodes.append(onnx.helper.make_node("Identity", [graph.full(value)], [name], name=name))
        described.append(_describe(name, output.shape))
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "jaxdefect", described[:1], described[1:], graph.initializers),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="jaxdefect",
    )
    onnx.checker.check_model(model)
    return model


def _dtype(atom: Any) -> np.dtype:
    return atom.aval.dtype


def _describe(name: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
    dimensions = [_BATCH_NAME if size == _BATCH else size for size in shape]
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dimensions)


def _compute(equation: Any, inputs: Sequence[Value]) -> list[Value]:
    arrays = [value.whole for value in inputs]
    results = equation.primitive.bind(*arrays, **equation.params)
    return [from_array(result) for result in (results if equation.primitive.multiple_results else [results])]


def _untranslatable(what: str) -> InputError:
    return InputError(f"the network uses {what!r}, which has no translation to ONNX here; export it as stablehlo")
