"""Rows of text as tables of Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A Markdown table of rows with a cell for each name in the header; the last ``numbers`` columns are flush right.

    >>> print(markdown(["method", "AUROC"], [["HeadCLIP", "90.0"]], numbers=1))
    | method | AUROC |
    |---|---:|
    | HeadCLIP | 90.0 |
    """
    rule = "|" + "---|" * (len(header) - numbers) + "---:|" * numbers
    first, *rest = ("| " + " | ".join(cells) + " |" for cells in (header, *rows))
    return "\n".join([first, rule, *rest])


def latex(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    r"""The same as a LaTeX tabular; it needs the package booktabs.

    >>> print(latex(["method", "AUROC"], [["HeadCLIP", "90.0"]], numbers=1))
    \begin{tabular}{lr}
    \toprule
    method & AUROC \\
    \midrule
    HeadCLIP & 90.0 \\
    \bottomrule
    \end{tabular}
    """
    lines = [row([escaped(cell) for cell in cells]) for cells in (header, *rows)]
    return tabular("l" * (len(header) - numbers) + "r" * numbers, lines[0], lines[1:])


def tabular(columns: str, header: str, lines: Iterable[str]) -> str:
    """Lines as ``row`` makes them, with booktabs' rules around them, as a LaTeX tabular."""
    begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
    return "\n".join([begin, r"\toprule", header, r"\midrule", *lines, r"\bottomrule", end])


def row(cells: Iterable[str]) -> str:
    """One line of a LaTeX table."""
    return " & ".join(cells) + r" \\"


def escaped(cell: str) -> str:
    r"""Text as LaTeX prints it.

    >>> escaped("50 %_x")
    '50 \\%\\_x'
    """
    return "".join("\\" + letter if letter in "&%$#_{}" else letter for letter in cell)
