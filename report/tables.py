"""Text tables for the terminal, Markdown, LaTeX or a spreadsheet."""

import csv
import io
from collections.abc import Sequence

from tabulate import tabulate

TABULATE_FORMATS = {"table": "plain", "markdown": "pipe", "latex": "latex_booktabs"}
FORMATS = (*TABULATE_FORMATS, "csv")


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]], table_format: str, left: int = 1) -> str:
    """Render a table as text that ends in a line break.

    Args:
        header: names of the columns.
        rows: cells, as many as there are columns in each row.
        table_format: one of `FORMATS`; `latex` needs the package booktabs.
        left: number of left-aligned columns; the others are right-aligned.
    """
    if table_format == "csv":
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([header, *rows])
        return buffer.getvalue()
    if table_format == "markdown":
        rows = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    align = ["left"] * left + ["right"] * (len(header) - left)
    text = tabulate(rows, header, TABULATE_FORMATS[table_format], colalign=align, disable_numparse=True)
    return (text.replace("±", r"$\pm$") if table_format == "latex" else text) + "\n"
