"""Speed of the project beside its peers and the machine's limits: `python -m benchmarks` (`make bench`).

Each timing is taken in turns with its peer's, in one process, after the results were found to be the same. Absolute
times mean little on shared machines; ratios and fractions of the limit are what to read.
"""

import argparse
import datetime
import json
import pathlib
import re

import torch

from benchmarks import decoding, growth, loading, report, scoring, training
from benchmarks.machine import bandwidth, describe, peak_rate
from utils.files import atomic_write
from utils.log import run_main

RESULTS = pathlib.Path(__file__).parent / "results"


def groups(device, full):
    """Name of a group of measurements -> function that takes them."""
    found = dict(
        padding=training.padding,
        scoring=scoring.run,
        loading=loading.run,
        training=lambda: training.run(device),
        decoding=lambda: decoding.run(device),
        growth=lambda: growth.run(device),
    )
    if full:
        found["training in bf16"] = lambda: training.run(device, precision="bf16", rounds=10)
        found["test split"] = lambda: decoding.test_split(device)
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="what only a GPU does in reasonable time, too")
    parser.add_argument("--only", nargs="+", metavar="GROUP", help="training, padding, decoding, scoring, …")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--name", help="of the machine, for the file of results")
    args = parser.parse_args(argv)
    device = torch.device(args.device)
    unknown = set(args.only or ()) - groups(device, args.full).keys()
    if unknown:
        raise ValueError(f"--only: found {min(unknown)!r}, expected some of {', '.join(groups(device, args.full))}")
    about = describe(device)
    name = (
        args.name or re.sub(r"\W+", "-", about.get("gpu", f"{about['processor']} {about['threads']} threads")).lower()
    )
    path = RESULTS / f"{name}.json"
    rates = dict(product_gflops=peak_rate(device, torch.float32) / 1e9, bandwidth_gbs=bandwidth(device) / 1e9)
    results = dict(machine=about, rates=rates, date=str(datetime.date.today()), rows={})
    if args.only and path.is_file():  # the other groups stay as they were
        results["rows"] = json.loads(path.read_text())["rows"]
    for group, measure in groups(device, args.full).items():
        if not args.only or group in args.only:
            results["rows"][group] = measure()
            print(report.table(results["rows"][group]), flush=True)
    RESULTS.mkdir(exist_ok=True)
    with atomic_write(path) as file:
        json.dump(results, file, indent=1, ensure_ascii=False)
    report.update(RESULTS)
    print(f"written: {path} and the tables of docs/performance.md")


if __name__ == "__main__":
    run_main(main)
