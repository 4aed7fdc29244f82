"""Compare the project's speed with its peers' and the machine's limits: `python -m benchmarks` (`make bench`).

Project and peer run alternately in one process, after a check that their results are equal. Absolute times mean little
on shared machines; read the ratios and the fractions of the limit.
"""

import argparse
import datetime
import functools
import pathlib
import re
from collections.abc import Callable, Sequence

import torch

from benchmarks import bf16, decoding, extraction, growth, loading, report, scoring, startup, training
from benchmarks.machine import describe_machine, measure_bandwidth, measure_product_rate
from benchmarks.records import (
    MachineDescription,
    MachineResults,
    MeasuredLimits,
    Row,
    read_machine_results,
    write_machine_results,
)
from utils.device import setup_device
from utils.log import run_main

RESULTS_FOLDER = pathlib.Path(__file__).parent / "results"


def list_benchmarks(device: torch.device, full: bool) -> dict[str, Callable[[], list[Row]]]:
    """List the groups of measurements: name -> function that takes them.

    Args:
        device: that the model runs on.
        full: include the groups that take reasonable time on a GPU only.
    """
    benchmarks: dict[str, Callable[[], list[Row]]] = dict(
        padding=training.benchmark_padding,
        scoring=scoring.benchmark_scoring,
        loading=loading.benchmark_loading,
        training=functools.partial(training.benchmark_training, device),
        decoding=functools.partial(decoding.benchmark_decoding, device),
        growth=functools.partial(growth.benchmark_growth, device),
        extraction=functools.partial(extraction.benchmark_extraction, device),
        startup=startup.benchmark_startup,
    )
    if device.type == "cpu":
        benchmarks["bf16"] = bf16.benchmark_bf16
    if full:
        benchmarks["training in bf16"] = functools.partial(
            training.benchmark_training, device, precision="bf16", rounds=10
        )
        benchmarks["test split"] = functools.partial(decoding.benchmark_test_split, device)
    return benchmarks


def derive_machine_name(machine: MachineDescription) -> str:
    """Derive the name of a machine's result file from its GPU, or its processor and threads."""
    name = machine.gpu or f"{machine.processor} {machine.threads} threads"
    return re.sub(r"\W+", "-", name).lower()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="include the groups that need a GPU")
    parser.add_argument("--only", nargs="+", metavar="GROUP", help="training, padding, decoding, scoring, …")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--name", help="of the machine, for the file of results")
    args = parser.parse_args(argv)
    device = setup_device(args.device)
    benchmarks = list_benchmarks(device, args.full)
    unknown = set(args.only or ()) - benchmarks.keys()
    if unknown:
        raise ValueError(f"--only: found {min(unknown)!r}, expected some of {', '.join(benchmarks)}")
    machine = describe_machine(device)
    path = RESULTS_FOLDER / f"{args.name or derive_machine_name(machine)}.json"
    limits = MeasuredLimits(
        product_gflops=measure_product_rate(device, torch.float32) / 1e9,
        bandwidth_gbs=measure_bandwidth(device) / 1e9,
    )
    rows: dict[str, list[Row]] = {}
    if args.only and path.is_file():  # keep the other groups
        rows = read_machine_results(path).rows
    for group, run_benchmark in benchmarks.items():
        if not args.only or group in args.only:
            rows[group] = run_benchmark()
            print(report.format_benchmark_table(rows[group]), flush=True)
    RESULTS_FOLDER.mkdir(exist_ok=True)
    results = MachineResults(machine=machine, limits=limits, date=str(datetime.date.today()), rows=rows)
    write_machine_results(path, results)
    report.update_document(RESULTS_FOLDER)
    print(f"written: {path} and the tables of docs/performance.md")


if __name__ == "__main__":
    run_main(main)
