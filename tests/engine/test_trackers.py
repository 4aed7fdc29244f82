import json

import pytest

from engine import trackers as tracking
from engine.config import Config
from utils.log import JsonLines

LINES = [
    dict(type="step", epoch=0, step=1, lr=1e-3, loss=5.0, gradient_norm=1.0),
    dict(type="step", epoch=0, step=2, lr=1e-3, loss=4.0, gradient_norm=None),
    dict(type="epoch", epoch=0, seconds=1.5, loss=4.5),
    dict(type="evaluation", epoch=0, split="val", F1=0.5, Kendall=0.25),
    dict(type="step", epoch=1, step=1, lr=5e-4, loss=3.0, gradient_norm=2.0),
]
EXPECTED = {
    "train/lr": [(1, 1e-3), (2, 1e-3), (4, 5e-4)],
    "train/loss": [(1, 5.0), (2, 4.0), (4, 3.0)],
    "train/gradient_norm": [(1, 1.0), (4, 2.0)],
    "epoch/seconds": [(2, 1.5)],
    "epoch/loss": [(2, 4.5)],
    "scores_val/F1": [(2, 0.5)],
    "scores_val/Kendall": [(2, 0.25)],
}


def curves(folder):
    """What TensorBoard itself reads from a run: tag -> [(step, value)]."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance=dict(scalars=0)).Reload()
    return {tag: [(e.step, pytest.approx(e.value)) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_follows_a_run_and_one_that_goes_on(tmp_path):
    config, kept = Config(output_dir=str(tmp_path), tensorboard=True), 0
    for lines in (LINES[:3], LINES[2:]):  # the third line is written anew by the run that goes on
        log = JsonLines(tmp_path / "log.jsonl", keep=kept)
        tracking.follow(log, config)
        for line in lines:
            log.write(**line)
            kept = kept if line == LINES[2] else log.position()
        log.close()
    assert curves(tmp_path) == EXPECTED
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_a_run_writes_for_tensorboard(train):
    folder = train("run", "--max_epoch", "2", "--splits", "val", "--eval_freq", "1", "--tensorboard", "--task", "v2v")
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    found = curves(folder)
    assert [value for _, value in found["train/loss"]] == [line["loss"] for line in log if line["type"] == "step"]
    assert [value for _, value in found["scores_val/F1"]] == [x["F1"] for x in log if x["type"] == "evaluation"]
    before = found
    tracking.main([str(folder)])
    assert curves(folder) == before


def test_a_tracker_that_is_not_installed_is_said_before_the_run(train, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="tensorboard: the package is not installed; pip install tensorboard"):
        train("run", "--tensorboard")
    with pytest.raises(FileNotFoundError, match="wandb: the package is not installed"):
        train("run", "--wandb", "videoxum")


def test_weights_and_biases_follows_a_run(tmp_path, monkeypatch):
    """Its own client, writing to the disk."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log = JsonLines(tmp_path / "log.jsonl")
    for line in LINES[:2]:
        log.write(**line)
    tracking.follow(log, Config(output_dir=str(tmp_path), wandb="videoxum"))
    for line in LINES[2:]:
        log.write(**line)
    summary = dict(log.followers[0].run.summary)
    log.close()
    assert (summary["line"], summary["batch"]) == (len(LINES), 4)
    assert {tag: summary[tag] for tag in EXPECTED} == {tag: values[-1][1] for tag, values in EXPECTED.items()}
    assert list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
