"""Results of benchmarks -> tables, and into docs/performance.md."""

import json
import pathlib

from utils.files import atomic_write

DOCUMENT = pathlib.Path(__file__).resolve().parent.parent / "docs/performance.md"
BEGIN, END = "<!-- results: written by make bench -->\n", "<!-- end of results -->\n"
COLUMNS = ("what", "project", "peer", "ratio", "of the limit", "checked in the same run")


def _number(value, unit):
    return "" if value is None else f"{value:.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


def _cells(row):
    peer = _number(row.get("peer"), row["unit"])
    return (
        row["what"],
        _number(row["project"], row["unit"]),
        f"{peer}, {row['peer_is']}" if peer else "",
        f"{row['ratio']:.2f}" if "ratio" in row else "",
        f"{100 * row['of_limit']:.0f} % ({row['limit_is']})" if "of_limit" in row else "",
        row.get("check", ""),
    )


def table(rows):
    """Lay rows out as a Markdown table."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def section(results):
    """One machine's results in Markdown."""
    about, rates = results["machine"], results["rates"]
    words = ", ".join(str(value) for value in (about.get("gpu"), about["processor"]) if value)
    head = (
        f"### {words}\n\n{about['threads']} threads ({about['isa']}), torch {about['torch']}, {results['date']}. "
        f"Measured limits: {rates['product_gflops']:,.0f} Gflop/s of a large float32 product, "
        f"{rates['bandwidth_gbs']:,.0f} GB/s read from memory.\n\n"
    )
    return head + table([row for rows in results["rows"].values() for row in rows])


def update(folder, document=DOCUMENT):
    """Write all machines' results into the document, between its marks."""
    text = document.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    sections = [section(json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*.json"))]
    with atomic_write(document) as file:
        file.write(before + BEGIN + "\n" + "\n".join(sections) + "\n" + END + rest.split(END)[1])
