"""How ONNX has the operations of the networks: one function per JAX operation, by its name, in `OPERATORS`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from jaxdefect.interop.onnx_graph import Graph, Operator, Value, depends_on_batch, from_array, from_name, stack
from jaxdefect.types import InputError

Params = Mapping[str, Any]
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def _elementwise(operation: str) -> Operator:
    """An operation of the same name and meaning that broadcasts its operands by itself."""

    def operator(graph: Graph, params: Params, values: Sequence[Value], result: Any) -> Value:
        # The operands have the result's rank, or are scalars.
        ranked = [(1,) * (len(result.shape) - len(value.stored)) + value.stored for value in values]
        stored = tuple(max(sizes) for sizes in zip(*ranked, strict=True))
        name = graph.add(operation, [graph.name(value) for value in values])
        return from_name(name, result.shape, result.dtype, stored=stored)

    return operator


def _chain(*steps: tuple[Operator, tuple[Any, ...]]) -> Operator:
    """One elementwise operation after the other, each on the result of the one before and constants of float32."""

    def operator(graph: Graph, params: Params, values: Sequence[Value], result: Any) -> Value:
        for step, constants in steps:
            operands = [*values, *(from_array(np.asarray(constant, np.float32)) for constant in constants)]
            values = [step(graph, params, operands, result)]
        return values[0]

    return operator


def _same(graph: Graph, params: Params, values: Sequence[Value], result: Any) -> Value:
    return values[0]


def _square(graph: Graph, params: Params, values: Sequence[Value], result: Any) -> Value:
    return _elementwise("Mul")(graph, params, [values[0], values[0]], result)


def _integer_power(graph: Graph, params: Params, values: Sequence[Value], result: Any) -> Value:
    exponent = from_array(np.asarray(params["y"], np.float32))
    return _elementwise("Pow")(graph, params, [values[0], exponent], result)


def _select(graph: Graph, params: Params, values: Sequence[Value], result: Any) -> Value:
    where, if_false, if_true = values
    return _elementwise("Where")(graph, params, [where, if_true, if_false], result)


def _convert(graph: Graph, params: Params, values: Sequence[Value], result: Any) -> Value:
    (value,) = values
    if value.dtype == result.dtype:
        return value
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(result.dtype))
    return from_name(graph.add("Cast", [graph.name(value)], to=kind), value.shape, result.dtype, stored=value.stored)


def _broadcast(graph: Graph, params: Params, values: Sequence[Value], result: Any) -> Value:
    """Only the axes are made; whoever needs the whole shape spreads it."""
    (value,) = values
    stored = [1] * len(result.shape)
    for axis, size in zip(params["broadcast_dimensions"], value.stored, strict=True):
        stored[axis] = size
    if value.array is not None:
        return Value(tuple(result.shape), tuple(stored), value.dtype, array=value.array.reshape(stored))
    new = [axis for axis in range(len(stored)) if axis not in params["broadcast_dimensions"]]
    name = graph.add("Unsqueeze", [value.name, graph.constant(new)]) if new else value.name
    return from_name(name, result.shape, value.dtype, stored=tuple(stored))


def _reshape(graph: Graph, params: Params, values: Sequence[Value], result: Any) -> Value:
    return reshape(graph, values[0], result.shape)


def reshape(graph: Graph, value: Value, shape: Sequence[int]) -> Value:
    """The value in another shape; at most one size in it may depend on the number of images."""
    sizes = [-1 if depends_on_batch(size) else size for size in shape]
    if sizes.count(-1) > 1:
        raise InputError(f"a reshape to {shape} has no translation to ONNX here; export as stablehlo")
    return from_name(graph.add("Reshape", [graph.full(value), graph.constant(sizes)]), tuple(shape), value.dtype)


def transpose(graph: Graph, value: Value, permutation: Sequence[int]) -> Value:
    """The value with its axes in another order."""
    if list(permutation) == sorted(permutation):
        return value
    shape, stored = ([sizes[axis] for axis in permutation] for sizes in (value.shape, value.stored))
    name = graph.add("Transpose", [graph.name(value)], perm=list(permutation))
    return from_name(name, tuple(shape), value.dtype, stored=tuple(stored))


def _transpose(graph: Graph, params: Params, values: Sequence[Value], result: Any) -> Value:
    return transpose(graph, values[0], params["permutation"])


def _squeeze(graph: Graph, params: Params, values: Sequence[Value], result: Any) -> Value:
    name = graph.add("Squeeze", [graph.full(values[0]), graph.constant(params["dimensions"])])
    return from_name(name, result.shape, result.dtype)


def _concatenate(graph: Graph, params: Params, values: Sequence[Value], result: Any) -> Value:
    name = graph.add("Concat", [graph.full(value) for value in values], axis=params["dimension"])
    return from_name(name, result.shape, result.dtype)


def _stack(graph: Graph, params: Params, values: Sequence[Value], result: Any) -> Value:
    return stack(graph, values, axis=params["axis"])


def _slice(graph: Graph, params: Params, values: Sequence[Value], result: Any) -> Value:
    (value,) = values
    starts, limits = params["start_indices"], params["limit_indices"]
    strides = params["strides"] or (1,) * len(starts)
    axes = [
        axis for axis, whole in enumerate(value.shape) if (starts[axis], limits[axis], strides[axis]) != (0, whole, 1)
    ]
    parts = [graph.constant([sizes[axis] for axis in axes]) for sizes in (starts, limits)]
    parts += [graph.constant(axes), graph.constant([strides[axis] for axis in axes])]
    return from_name(graph.add("Slice", [graph.full(value), *parts]), result.shape, result.dtype)


def _reduce(operation: str) -> Operator:
    def operator(graph: Graph, params: Params, values: Sequence[Value], result: Any) -> Value:
        name = graph.full(values[0])
        # One axis after the other: ONNX Runtime adds up in float32 without partial sums, and over a whole map that
        # costs a digit.
        for axis in sorted(params["axes"], reverse=True):
            name = graph.add(operation, [name, graph.constant([axis])], keepdims=0)
        return from_name(name, result.shape, result.dtype)

    return operator


def _multiply_matrices(graph: Graph, params: Params, values: Sequence[Value], result: Any) -> Value:
    """`dot_general` of an array with a constant: the contracted axes last, one product, then JAX's order of axes."""
    contracted, batched = params["dimension_numbers"]
    place = next((i for i, value in enumerate(values) if value.array is not None), None)
    if place is None or any(batched):
        raise InputError("a product of two computed arrays has no translation to ONNX here; export as stablehlo")
    matrix, value = values[place], values[1 - place]
    ours, theirs = contracted[1 - place], contracted[place]
    free = [axis for axis in range(len(value.shape)) if axis not in ours]
    value = transpose(graph, value, [*free, *ours])
    kept, num_contracted = value.shape[: len(free)], math.prod(value.shape[len(free) :])
    if len(ours) != 1:
        value = reshape(graph, value, (*kept, num_contracted))
    columns = [axis for axis in range(len(matrix.shape)) if axis not in theirs]
    array = matrix.whole.transpose(*theirs, *columns)
    weights = graph.constant(array.reshape(num_contracted, -1), np.float32)
    flat = from_name(
        graph.add("MatMul", [graph.full(value), weights]), (*kept, array.size // num_contracted), np.float32
    )
    sizes = array.shape[len(theirs) :]
    product = flat if len(sizes) == 1 else reshape(graph, flat, (*kept, *sizes))
    if place == 0:  # the constant's free axes come first
        num_kept = len(kept)
        product = transpose(graph, product, [*range(num_kept, num_kept + len(sizes)), *range(num_kept)])
    return product


def _convolve(graph: Graph, params: Params, values: Sequence[Value], result: Any) -> Value:
    image, kernel = values
    layout = params["dimension_numbers"]
    is_plain = kernel.array is not None and set(params["lhs_dilation"]) == {1} and params["batch_group_count"] == 1
    if not is_plain:
        raise InputError("a transposed or computed convolution has no translation to ONNX here; export as stablehlo")
    before, after = zip(*params["padding"], strict=True)
    array = kernel.whole.transpose(layout.rhs_spec)
    name = graph.add(
        "Conv",
        [graph.full(transpose(graph, image, layout.lhs_spec)), graph.constant(array, np.float32)],
        kernel_shape=array.shape[2:],
        strides=params["window_strides"],
        dilations=params["rhs_dilation"],
        pads=[*before, *after],
        group=params["feature_group_count"],
    )
    shape = tuple(result.shape[axis] for axis in layout.out_spec)
    return transpose(graph, from_name(name, shape, np.float32), np.argsort(layout.out_spec).tolist())


def _pool(operation: str) -> Operator:
    """Windows over the rows and columns of [B, H, W, C]; over all of them, a reduction."""

    def operator(graph: Graph, params: Params, values: Sequence[Value], result: Any) -> Value:
        (value,) = values
        window, strides, padding = params["window_dimensions"], params["window_strides"], params["padding"]
        dilations = {*params["base_dilation"], *params["window_dilation"]}
        if len(window) != 4 or window[0] != 1 or window[3] != 1 or dilations != {1}:
            raise InputError(f"a window of {window} has no translation to ONNX here; export as stablehlo")
        if tuple(result.shape[1:3]) == (1, 1) and window[1:3] == value.shape[1:3]:
            inputs = [graph.full(value), graph.constant([1, 2])]
            name = graph.add({"MaxPool": "ReduceMax", "AveragePool": "ReduceSum"}[operation], inputs, keepdims=1)
            return from_name(name, result.shape, result.dtype)
        before, after = zip(*padding[1:3], strict=True)
        counted = {"count_include_pad": 1} if operation == "AveragePool" else {}
        name = graph.add(
            operation,
            [graph.full(transpose(graph, value, _TO_NCHW))],
            kernel_shape=window[1:3],
            strides=strides[1:3],
            pads=[*before, *after],
            **counted,
        )
        if operation == "AveragePool":
            name = graph.add("Mul", [name, graph.constant(window[1] * window[2], np.float32)])
        shape = tuple(result.shape[axis] for axis in _TO_NCHW)
        return transpose(graph, from_name(name, shape, result.dtype), _TO_NHWC)

    return operator


_NOT = (_elementwise("Not"), ())

OPERATORS: dict[str, Operator] = {
    "abs": _elementwise("Abs"),
    "add": _elementwise("Add"),
    "and": _elementwise("And"),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolve,
    "convert_element_type": _convert,
    "div": _elementwise("Div"),
    "dot_general": _multiply_matrices,
    "eq": _elementwise("Equal"),
    "exp": _elementwise("Exp"),
    "ge": _elementwise("GreaterOrEqual"),
    "gt": _elementwise("Greater"),
    "integer_pow": _integer_power,
    "is_finite": _chain((_elementwise("Abs"), ()), (_elementwise("Less"), (np.inf,))),
    "le": _elementwise("LessOrEqual"),
    "log": _elementwise("Log"),
    "log1p": _chain((_elementwise("Add"), (1,)), (_elementwise("Log"), ())),
    "logistic": _elementwise("Sigmoid"),
    "lt": _elementwise("Less"),
    "max": _elementwise("Max"),
    "min": _elementwise("Min"),
    "mul": _elementwise("Mul"),
    "ne": _chain((_elementwise("Equal"), ()), _NOT),
    "neg": _elementwise("Neg"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_window_max": _pool("MaxPool"),
    "reduce_window_sum": _pool("AveragePool"),
    "reshape": _reshape,
    "rsqrt": _chain((_elementwise("Sqrt"), ()), (_elementwise("Reciprocal"), ())),
    "select_n": _select,
    "sign": _elementwise("Sign"),
    "slice": _slice,
    "sqrt": _elementwise("Sqrt"),
    "square": _square,
    "squeeze": _squeeze,
    "stack": _stack,
    "stop_gradient": _same,
    "sub": _elementwise("Sub"),
    "transpose": _transpose,
}
