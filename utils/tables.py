"""Rows of text as a table for the terminal, Markdown, LaTeX or a spreadsheet."""

import csv
import io

FORMATS = ("table", "markdown", "latex", "csv")
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {sign: "\\" + sign for sign in "&%$#_{}"}
_LATEX |= {"±": r"$\pm$", "τ": r"$\tau$", "ρ": r"$\rho$", "−": "$-$"}


def layout(header, rows, style, left=1):
    """Lay a table out as text that ends in a line break.

    Args:
        header: list of names.
        rows: lists of cells, text; shorter ones are filled up with empty cells.
        style: one of `FORMATS`; `latex` needs the package booktabs.
        left: columns that are aligned to the left, the others to the right.
    """
    rows = [[*row, *[""] * (len(header) - len(row))] for row in rows]
    if style == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        return text.getvalue()
    if style == "latex":
        head, *body = (" & ".join(map(_latex, row)) + r" \\" for row in [header, *rows])
        columns = "l" * left + "r" * (len(header) - left)
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
        return "\n".join([*lines, r"\end{tabular}"]) + "\n"
    if style == "markdown":
        rows = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [_aligned(row, widths, left) for row in [header, *rows]]
    if style == "markdown":
        rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(max(2, w) for w in widths)]
        return "\n".join("| " + " | ".join(row) + " |" for row in [lines[0], rule, *lines[1:]]) + "\n"
    return "\n".join("  ".join(row).rstrip() for row in lines) + "\n"


def _aligned(row, widths, left):
    return [cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))]


def _latex(cell):
    return "".join(_LATEX.get(sign, sign) for sign in cell)
