"""The kernel launches of a compiled program for a GPU, read from its text."""

import math
import re
from collections.abc import Iterator

_ITEM_BYTES = {
    "f64": 8,
    "s64": 8,
    "u64": 8,
    "c64": 8,
    "c128": 16,
    "bf16": 2,
    "f16": 2,
    "s16": 2,
    "u16": 2,
    "pred": 1,
    "u8": 1,
    "s8": 1,
}
_STARTED = ("call", "conditional", "copy", "convert", "custom-call", "fusion", "reduce", "reduce-window", "transpose")


def kernel_launches(text: str) -> Iterator[tuple[str, int]]:
    """Yields the HLO line, and the bytes read and written, of every kernel that a call of a compiled program launches.

    A slice counts as the whole array, and a loop not at all.

    Args:
      text: of the compiled program, as `as_text` gives it.
    """
    sizes: dict[str, int] = {}
    for line in text.partition("\nENTRY")[2].splitlines():
        found = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*?)\)", line)
        if found is None:
            continue
        name, shape, operation, arguments = found.groups()
        sizes[name] = _bytes_of(shape)
        if operation in _STARTED:
            operands = re.findall(r"[\w.\-]+", re.sub(r"/\*.*?\*/", "", arguments))
            yield line, sizes[name] + sum(sizes.get(operand, 0) for operand in operands)


def _bytes_of(text: str) -> int:
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", text)
    return sum(_ITEM_BYTES.get(kind, 4) * math.prod(map(int, filter(None, shape.split(",")))) for kind, shape in arrays)
