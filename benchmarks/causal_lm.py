"""Captions of a language model that is trained from scratch, compared with chance: `python -m benchmarks.causal_lm`.

Trains on the data of `make demo` with a small random language model as the caption decoder, by the training command.
Fails unless its CIDEr exceeds that of the baseline `shuffled`, the reference captions of other videos.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from utils.log import run_main

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEMO_DATA = ROOT / "dataset/mini"
WIDTH = 128


def train_with_language_model(epochs: int, output_dir: pathlib.Path) -> None:
    """Train all parameters, language model included, and evaluate the test split."""
    from benchmarks.language_models import write_language_model

    with tempfile.TemporaryDirectory() as folder:
        language_model = write_language_model(folder, "qwen3", DEMO_DATA / "tokenizer", width=WIDTH)
        flags = ["--decoder", "causal_lm", "--decoder_path", str(language_model), "--decoder_train", "all"]
        flags += ["--max_epoch", str(epochs), "--splits", "test", "--ckpt_freq", "0", "--resume", ""]
        command = [sys.executable, "train_v2vt_sum.py", "--config", "configs/mini.yaml", *flags]
        subprocess.run([*command, "--output_dir", str(output_dir)], cwd=ROOT, check=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.causal_lm", description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--output_dir", type=pathlib.Path, default=ROOT / "outputs/causal_lm")
    args = parser.parse_args(argv)
    if not (DEMO_DATA / "feat/blip").is_dir():
        raise FileNotFoundError(f"{DEMO_DATA}/feat/blip: frame features: no such folder; run make demo")
    start = time.monotonic()
    train_with_language_model(args.epochs, args.output_dir)
    results = json.loads((args.output_dir / "results_test.json").read_text())
    scores = {"language model": results["metrics"]["CIDEr"]}
    scores |= {name: results["baselines"][name]["CIDEr"] for name in ("shuffled", "constant")}
    print(f"{args.epochs} epochs and evaluation in {time.monotonic() - start:.0f} s; CIDEr x 100:")
    for name, score in scores.items():
        print(f"  {name:15} {100 * score:6.1f}")
    if scores["language model"] <= scores["shuffled"]:
        sys.exit("the language model does not exceed chance")


if __name__ == "__main__":
    run_main(main)
