"""Project the cost of the published training from the operations of its steps: `python -m benchmarks.cost [RESULTS]`.

Prints the table of docs/training.md: hours on the measured machine, from its training step and the operations of an
average step, and GPU hours from the GPU's peak and an assumed utilization, which is not measured.
"""

import argparse
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.model_checks import PUBLISHED_EPOCHS
from benchmarks.records import MachineResults, read_machine_results
from benchmarks.training import NUM_TRAINING_VIDEOS, count_step_operations
from benchmarks.workload import FULL_SIZE_CONFIG, build_full_size_model, draw_lengths
from utils.log import run_main

DEFAULT_RESULTS = pathlib.Path(__file__).parent / "results/amd-epyc-2-threads.json"
BATCH_SIZE = 16
SCOPES = ("published", "scored")
PEAK_TFLOPS = {"A100, bf16": 312, "H100 SXM, bf16": 989}  # dense, of NVIDIA's data sheets
UTILIZATIONS = (0.1, 0.3)


def list_step_operations(
    smoothing_scope: str, *, num_videos: int = NUM_TRAINING_VIDEOS, med_config: str = FULL_SIZE_CONFIG
) -> list[int]:
    """List the operations of each step of an epoch of batches of `BATCH_SIZE` videos.

    Args:
        smoothing_scope: see `models.losses.caption_loss`.
        num_videos: videos of an epoch.
        med_config: see `build_full_size_model`.
    """
    model = build_full_size_model(smoothing_scope=smoothing_scope, med_config=med_config)
    frames, tokens = (lengths.tolist() for lengths in draw_lengths(num_videos, seed=1))
    return [
        count_step_operations(
            model, frames[start : start + BATCH_SIZE], tokens[start : start + BATCH_SIZE], smoothing_scope
        )
        for start in range(0, num_videos - BATCH_SIZE + 1, BATCH_SIZE)
    ]


def find_step_seconds(results: MachineResults, smoothing_scope: str) -> float:
    """Return the seconds of the measured step in float32, which is the first one of `list_step_operations`.

    Raises:
        ValueError: it is not in the results.
    """
    name = f"training step, fp32, B = {BATCH_SIZE}, smoothing {smoothing_scope}"
    for row in (row for rows in results.rows.values() for row in rows):
        if row.measurement == name:
            return row.project_value
    raise ValueError(f"results: {name}: not measured; run python -m benchmarks --only training")


def format_costs(results: MachineResults, operations_by_scope: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """Yield the lines of the table in Markdown.

    Args:
        results: of the machine whose hours are projected.
        operations_by_scope: scope of the smoothing -> operations of an epoch's steps.
    """
    columns = [f"`smoothing_scope: {scope}`" for scope in operations_by_scope]
    yield f"| {PUBLISHED_EPOCHS} epochs of {NUM_TRAINING_VIDEOS:,} videos | {' | '.join(columns)} |"
    yield "|---" * (1 + len(columns)) + "|"
    totals = {scope: PUBLISHED_EPOCHS * sum(operations) for scope, operations in operations_by_scope.items()}
    yield f"| operations | {' | '.join(f'{total / 1e15:.1f} PFLOP' for total in totals.values())} |"
    hours = [
        find_step_seconds(results, scope) * totals[scope] / operations[0] / 3600
        for scope, operations in operations_by_scope.items()
    ]
    machine = f"{results.machine.processor}, {results.machine.threads} threads, fp32, from the measured step"
    yield f"| {machine} | {' | '.join(f'{value:.0f} h' for value in hours)} |"
    for gpu, peak in PEAK_TFLOPS.items():
        ranges = [
            " to ".join(f"{total / (peak * 1e12 * utilization) / 60:.0f}" for utilization in reversed(UTILIZATIONS))
            for total in totals.values()
        ]
        percents = " to ".join(f"{utilization:.0%}" for utilization in UTILIZATIONS)
        assumption = f"one {gpu}, *not measured*: {percents} of {peak} TFLOP/s assumed"
        yield f"| {assumption} | {' | '.join(f'{minutes} min' for minutes in ranges)} |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=__doc__.splitlines()[0])
    parser.add_argument(
        "results", nargs="?", type=pathlib.Path, default=DEFAULT_RESULTS, help="results of make bench (%(default)s)"
    )
    args = parser.parse_args(argv)
    results = read_machine_results(args.results)
    for line in format_costs(results, {scope: list_step_operations(scope) for scope in SCOPES}):
        print(line)


if __name__ == "__main__":
    run_main(main)
