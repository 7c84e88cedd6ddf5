"""Names of the user's in tables that LaTeX and Markdown are to read."""

from jaxdefect.studies import tables


def test_names_stand_in_latex_and_markdown_as_they_are() -> None:
    row = ["a^2 ~ 5 %", "<b>|\n1"]
    latex = tables.latex(["x", "y"], [row], num_text_columns=1)
    assert r"a\textasciicircum{}2 \textasciitilde{} 5 \% & <b>| 1 \\" in latex
    assert tables.markdown(["x", "y"], [row]).endswith("| a^2 ~ 5 % | &lt;b>\\| 1 |\n")
