"""Check and measure the project on a GPU in minutes: `python -m benchmarks.gpu [--out FILE]`.

Every command on small data, several processes, host syncs, golden values, and speed, utilization and memory at the
published size, compared with transformers. Needs no Java, no hub and no data. Prints a table, and writes
`benchmarks/results/gpu/{gpu}.json` and docs/performance.md; the exit status is 1 if a check failed or was not run.
"""

import argparse
import datetime
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Sequence

import torch

from benchmarks import report
from benchmarks.checks import Check, run_checks, select_checks
from benchmarks.machine import describe_machine
from benchmarks.model_checks import ModelChecks, build_workload
from benchmarks.records import CheckResult, GpuResults, write_gpu_results
from benchmarks.user_commands import CommandChecks
from utils.device import setup_device
from utils.environment import environment_info
from utils.log import run_main

GPU_RESULTS_FOLDER = pathlib.Path(__file__).parent / "results/gpu"


def list_gpu_checks(device: torch.device, size: str, folder: pathlib.Path) -> list[Check]:
    """List all checks, in an order that satisfies their requirements.

    Args:
        device: device of the models.
        size: `full` or `toy`.
        folder: temporary folder for data and outputs.
    """
    commands = CommandChecks(folder, device.type, size)
    model = ModelChecks(device, build_workload(size), commands.training_flags)
    return [*commands.list_checks(), *model.list_checks()]


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, help="JSON file to write, in place of the repository's files")
    parser.add_argument("--only", nargs="+", metavar="CHECK", help="run these checks, and those that they require")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--size", default="full", choices=("full", "toy"), help="toy: seconds on a CPU, for tests")
    args = parser.parse_args(argv)
    if args.out is None and (args.only or args.device == "cpu" or args.size == "toy"):
        raise ValueError("--out: found nothing, expected a file for results of a CPU, of --only or of --size toy")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse_arguments(argv)
    device = setup_device(args.device)
    if device.type == "cuda":
        device = torch.device("cuda", 0)
    start = time.perf_counter()
    machine = describe_machine(device)
    gpu_name = re.sub(r"\W+", "-", machine.gpu or "cpu").lower()
    path = args.out or GPU_RESULTS_FOLDER / f"{gpu_name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)

    def build_results(checks: Sequence[CheckResult]) -> GpuResults:
        return GpuResults(
            machine=machine,
            num_gpus=torch.cuda.device_count() if device.type == "cuda" else 0,
            versions=environment_info(),
            size=args.size,
            date=str(datetime.date.today()),
            seconds=round(time.perf_counter() - start, 1),
            checks=list(checks),
        )

    with tempfile.TemporaryDirectory(prefix="benchmarks-gpu-", ignore_cleanup_errors=True) as folder:
        checks = list_gpu_checks(device, args.size, pathlib.Path(folder))
        if args.only:
            checks = select_checks(checks, args.only)
        results = build_results(run_checks(checks, lambda finished: write_gpu_results(path, build_results(finished))))
    print(report.format_gpu_section(results), flush=True)
    if args.out is None:
        report.update_gpu_section(GPU_RESULTS_FOLDER)
    problems = [check.name for check in results.checks if check.is_problem]
    outcome = f"{len(problems)} problems: {', '.join(problems)}" if problems else "no problems"
    print(f"{path}: {len(results.checks)} checks in {results.seconds:.0f} s, {outcome}", flush=True)
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    run_main(main)
