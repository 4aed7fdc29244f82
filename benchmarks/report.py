"""Results of benchmarks -> tables, and into docs/performance.md."""

import pathlib
from collections.abc import Iterable

from benchmarks.records import GpuResults, MachineResults, Row, read_gpu_results, read_machine_results
from utils.files import atomic_write

PERFORMANCE_DOCUMENT = pathlib.Path(__file__).resolve().parent.parent / "docs/performance.md"
BEGIN_MARK = "<!-- results: written by make bench -->\n"
END_MARK = "<!-- end of results -->\n"
GPU_BEGIN_MARK = "<!-- results on GPUs: written by python -m benchmarks.gpu -->\n"
GPU_END_MARK = "<!-- end of results on GPUs -->\n"
NO_GPU_RESULTS = "Not run yet on a GPU.\n"
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


def format_gpu_section(results: GpuResults) -> str:
    """Format the results of `benchmarks.gpu` as a section in Markdown: all rows, and each check without rows."""
    machine = results.machine
    num_problems = sum(check.is_problem for check in results.checks)
    head = (
        f"### {f'{results.num_gpus} x {machine.gpu}' if machine.gpu else machine.processor}\n\n"
        f"torch {machine.torch}, transformers {results.versions.get('transformers')}, {results.date}, "
        f"code {results.versions.get('code')}, size {results.size}: {len(results.checks)} checks in "
        f"{results.seconds:.0f} s, {num_problems} failed or not run.\n\n"
    )
    lines = [
        f"- **{check.name}**: {check.status}, {check.message}\n" for check in results.checks if check.status != "passed"
    ]
    notes = "".join(lines) + "\n" if lines else ""
    return head + notes + format_benchmark_table(row for check in results.checks for row in check.rows)


def update_document(results_folder: pathlib.Path, document: pathlib.Path = PERFORMANCE_DOCUMENT) -> None:
    """Write the results of all machines into a document, between its two marks.

    Args:
        results_folder: folder with one JSON file per machine.
        document: Markdown file that has the marks.
    """
    sections = [format_machine_section(read_machine_results(path)) for path in sorted(results_folder.glob("*.json"))]
    _replace_between(document, BEGIN_MARK, END_MARK, "\n".join(sections))


def update_gpu_section(results_folder: pathlib.Path, document: pathlib.Path = PERFORMANCE_DOCUMENT) -> None:
    """Write the results of `benchmarks.gpu` on all GPUs into a document, between its two marks.

    Args:
        results_folder: folder with one JSON file per GPU; it may be missing.
        document: Markdown file that has the marks.
    """
    sections = [format_gpu_section(read_gpu_results(path)) for path in sorted(results_folder.glob("*.json"))]
    _replace_between(document, GPU_BEGIN_MARK, GPU_END_MARK, "\n".join(sections) or NO_GPU_RESULTS)


def _replace_between(document: pathlib.Path, begin_mark: str, end_mark: str, content: str) -> None:
    """Replace the lines between two marks of a document."""
    before, rest = document.read_text(encoding="utf-8").split(begin_mark)
    after = rest.split(end_mark)[1]
    with atomic_write(document) as file:
        file.write(before + begin_mark + "\n" + content + "\n" + end_mark + after)
