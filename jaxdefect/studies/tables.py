"""Tables of text in the forms that people put them to use in: Markdown, LaTeX and the terminal."""

from collections.abc import Sequence
from typing import Literal

from rich.table import Table

Unit = Literal["percent", "count"]
UNKNOWN = "n/a"
_TEX = {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "±": r"$\pm$"}
_TEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def mean_and_std(mean: float | None, std: float | None, unit: Unit) -> str:
    """ "98.25 ± 0.31" (percent, without the sign) or "3.5 ± 1.2" (counts); without the spread where it is not known."""
    if mean is None:
        return UNKNOWN
    factor, digits = (100.0, 2) if unit == "percent" else (1.0, 1)
    if unit == "count" and std is None and mean == int(mean):
        digits = 0
    text = f"{factor * mean:.{digits}f}"
    return text if std is None else f"{text} ± {factor * std:.{digits}f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(map(_to_markdown, line)) + " |\n" for line in lines)


def _to_markdown(text: str) -> str:
    return _in_one_line(text).replace("|", "\\|").replace("<", "&lt;")


def _in_one_line(text: str) -> str:
    return " ".join(text.split())


def latex(header: Sequence[str], rows: Sequence[Sequence[str]], *, num_text_columns: int) -> str:
    """A LaTeX tabular (package booktabs), the first `num_text_columns` columns left-aligned, the others right."""
    columns = "l" * num_text_columns + "r" * (len(header) - num_text_columns)
    lines = [" & ".join(map(_to_tex, row)) + r" \\" for row in (header, *rows)]
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join([*body, r"\end{tabular}", ""])


def _to_tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in _in_one_line(text))


def terminal(header: Sequence[str], rows: Sequence[Sequence[str]], *, title: str, caption: str) -> Table:
    """A table for the terminal."""
    result = Table(title=title, caption=caption)
    for i, name in enumerate(header):
        result.add_column(name, justify="left" if i == 0 else "right")
    for row in rows:
        result.add_row(*row)
    return result
