"""TensorBoard and Weights & Biases get each line of a log once, also when a killed run is resumed."""

import collections
import json
import os
import struct
import subprocess
import sys

import pytest

from engine.config import Config
from engine.trackers import check_trackers
from tests.conftest import ROOT

LINES = [
    dict(type="step", epoch=0, step=1, lr=1e-3, loss=5.0, grad_norm=1.0),
    dict(type="step", epoch=0, step=2, lr=1e-3, loss=4.0, grad_norm=None),
    dict(type="epoch", epoch=0, seconds=1.5, loss=4.5),
    dict(type="evaluation", epoch=0, split="val", F1=0.5, Kendall=0.25),
    dict(type="step", epoch=1, step=1, lr=5e-4, loss=3.0, grad_norm=2.0),
]
EXPECTED = {
    "train/lr": [(2, 1e-3), (3, 1e-3), (5, 5e-4)],
    "train/loss": [(2, 5.0), (3, 4.0), (5, 3.0)],
    "train/grad_norm": [(2, 1.0), (5, 2.0)],
    "epoch/seconds": [(3, 1.5)],
    "epoch/loss": [(3, 4.5)],
    "scores_val/F1": [(3, 0.5)],
    "scores_val/Kendall": [(3, 0.25)],
}
# A process that writes some of the lines above, and is killed afterwards if `end` is "killed".
PROGRAM = """
import json, os, pathlib, signal, sys
from engine.config import Config
from engine.trackers import attach_trackers
from utils.log import JsonlLogger
folder, settings, lines, end = pathlib.Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
log = JsonlLogger(folder / "log.jsonl")
attach_trackers(log, Config(output_dir=str(folder), **settings), batches_per_epoch=3, world_size=1)
for line in lines:
    log.write(**line)
if end == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
log.close()
"""


def write_lines(folder, settings, lines, end="closed"):
    argv = [str(folder), *map(json.dumps, (settings, lines, end))]
    env = os.environ | dict(WANDB_MODE="offline", WANDB_SILENT="true")
    done = subprocess.run([sys.executable, "-c", PROGRAM, *argv], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == (-9 if end == "killed" else 0), done.stderr


def read_curves(folder):
    """Read the curves of a run with TensorBoard itself: tag -> [(step, value)]."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance=dict(scalars=0)).Reload()
    return {
        tag: [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def read_wandb_history(folder):
    """Read (tag, step) of all values in the files of the Weights & Biases client."""
    from wandb.proto import wandb_internal_pb2

    values = []
    for path in folder.glob("wandb/offline-run-*/run-*.wandb"):
        data, position, payload = path.read_bytes(), 7, b""  # LevelDB's log format after a header of 7 bytes
        while position + 7 <= len(data):
            if 32768 - position % 32768 < 7:
                position += 32768 - position % 32768
                continue
            _, size, kind = struct.unpack("<IHB", data[position : position + 7])
            payload += data[position + 7 : position + 7 + size]
            position += 7 + size
            if kind in (1, 4):  # a whole record or its last part
                record = wandb_internal_pb2.Record.FromString(payload)
                payload = b""
                row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                values += [(tag, int(row["global_step"])) for tag in row if "/" in tag]
    return values


def test_tensorboard_gets_each_line_once_after_a_kill(tmp_path):
    """The resumed run repeats the lines after its checkpoint, here all but the first."""
    settings = dict(tensorboard=True)
    write_lines(tmp_path, settings, LINES[:4], "killed")
    write_lines(tmp_path, settings, LINES[1:])
    assert read_curves(tmp_path) == EXPECTED


def test_wandb_gets_each_line_once_after_a_kill(tmp_path):
    """With the real client, offline; both processes belong to one run."""
    pytest.importorskip("wandb")
    settings = dict(wandb="videoxum")
    write_lines(tmp_path, settings, LINES[:2], "killed")
    write_lines(tmp_path, settings, LINES[1:])
    counts = collections.Counter(read_wandb_history(tmp_path))
    assert set(counts.values()) == {1} and set(counts) <= {(tag, step) for tag in EXPECTED for step, _ in EXPECTED[tag]}
    assert set(counts) >= {("scores_val/F1", 3), ("train/loss", 5)}, counts
    assert len({path.name for path in tmp_path.glob("wandb/offline-run-*/run-*.wandb")}) == 1
    assert read_curves(tmp_path) == EXPECTED


def test_resumed_run_continues_its_curves(train):
    flags = ("--splits", "val", "--eval_freq", "1", "--tensorboard", "--task", "v2v", "--log_freq", "1")
    folder = train("whole", "--max_epoch", "2", *flags)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    expected = read_curves(folder)
    assert [value for _, value in expected["train/loss"]] == [line["loss"] for line in log if line["type"] == "step"]
    assert [value for _, value in expected["scores_val/F1"]] == [
        line["F1"] for line in log if line["type"] == "evaluation"
    ]
    train("whole", "--max_epoch", "2", *flags)  # training is complete: only the last evaluation is repeated
    assert read_curves(folder) == expected


def test_wandb_without_login_raises_before_the_run(mini_flags, tmp_path):
    """With the real client, as a user starts a run: one line, and no output folder."""
    pytest.importorskip("wandb")
    argv = ["train_v2vt_sum.py", "--config", "configs/mini.yaml", *mini_flags, "--pretrained", ""]
    argv += ["--wandb", "videoxum", "--output_dir", str(tmp_path / "run")]
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    env |= dict(HOME=str(tmp_path / "home"), WANDB_CONFIG_DIR=str(tmp_path / "home"))
    done = subprocess.run(
        [sys.executable, *argv], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    expected = "error: wandb: found no access to Weights & Biases (No API key configured. Use `wandb login` to log in.)"
    assert done.stderr == f"{expected}; run `wandb login`, or set WANDB_MODE=offline\n"


def test_missing_tracker_package_raises_before_the_run(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="tensorboard: the package is not installed; pip install tensorboard"):
        check_trackers(Config(tensorboard=True))
    with pytest.raises(FileNotFoundError, match="the package is not installed"):
        check_trackers(Config(wandb="videoxum"))
