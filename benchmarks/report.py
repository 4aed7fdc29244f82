"""Results of benchmarks -> tables, and into docs/performance.md."""

import pathlib
from collections.abc import Iterable

from benchmarks.records import MachineResults, Row, read_machine_results
from utils.files import atomic_write

PERFORMANCE_DOCUMENT = pathlib.Path(__file__).resolve().parent.parent / "docs/performance.md"
BEGIN_MARK = "<!-- results: written by make bench -->\n"
END_MARK = "<!-- end of results -->\n"
TABLE_HEADER = ("benchmark", "project", "peer", "ratio", "of the limit", "checked in the same run")


def _format_value(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


def _format_cells(row: Row) -> tuple[str, ...]:
    peer = "" if row.peer_value is None else f"{_format_value(row.peer_value, row.unit)}, {row.peer_name}"
    limit = "" if row.limit_fraction is None else f"{100 * row.limit_fraction:.0f}% ({row.limit_description})"
    return (
        row.measurement,
        _format_value(row.project_value, row.unit),
        peer,
        "" if row.ratio is None else f"{row.ratio:.2f}",
        limit,
        row.check or "",
    )


def format_benchmark_table(rows: Iterable[Row]) -> str:
    """Format rows as a Markdown table."""
    lines = [TABLE_HEADER, ("---",) * len(TABLE_HEADER), *map(_format_cells, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def format_machine_section(results: MachineResults) -> str:
    """Format the results of one machine as a section in Markdown."""
    machine = results.machine
    names = [name for name in (machine.gpu, machine.processor) if name]
    head = (
        f"### {', '.join(names)}\n\n"
        f"{machine.threads} threads ({machine.isa}), torch {machine.torch}, {results.date}. "
        f"Measured limits: {results.limits.product_gflops:,.0f} Gflop/s of a large float32 product, "
        f"{results.limits.bandwidth_gbs:,.0f} GB/s read from memory.\n\n"
    )
    return head + format_benchmark_table(row for rows in results.rows.values() for row in rows)


def update_document(results_folder: pathlib.Path, document: pathlib.Path = PERFORMANCE_DOCUMENT) -> None:
    """Write the results of all machines into a document, between its two marks.

    Args:
        results_folder: folder with one JSON file per machine.
        document: Markdown file that has the marks.
    """
    before, rest = document.read_text(encoding="utf-8").split(BEGIN_MARK)
    after = rest.split(END_MARK)[1]
    sections = [format_machine_section(read_machine_results(path)) for path in sorted(results_folder.glob("*.json"))]
    with atomic_write(document) as file:
        file.write(before + BEGIN_MARK + "\n" + "\n".join(sections) + "\n" + END_MARK + after)
