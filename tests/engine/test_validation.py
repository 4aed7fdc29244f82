"""Validation losses: their values, and that a training with them ends with the same bytes as one without."""

import json
import re
import shutil

import pytest
import torch

from data.collate import collate
from data.dataset import VideoXum
from models.weights import read_checkpoint
from tests.helpers.harness import assert_same_training, read_log


def read_val_losses(folder):
    return [
        {name: value for name, value in entry.items() if name.startswith("val_")}
        for entry in read_log(folder)
        if entry["type"] == "epoch"
    ]


def test_training_is_the_same_with_and_without_validation_losses(train, monkeypatch):
    """With dropout, both losses, and a resume from the middle of an epoch and from its end."""
    flags = ("--splits", "test", "--caption_metrics", "auto", "--max_epoch", "2", "--log_freq", "1")
    monkeypatch.setattr("engine.training.VTSumTrainer.evaluate", lambda trainer: None)  # is not part of the training
    without = train("without", *flags, "--val_loss", "false")
    assert read_val_losses(without) == [{}, {}]
    whole = train("with", *flags, "--ckpt_freq", "1")
    assert_same_training(whole, without)
    losses = read_val_losses(whole)
    assert all(list(entry) == ["val_loss", "val_loss_tsum", "val_loss_vsum"] for entry in losses)
    assert losses[1]["val_loss"] < losses[0]["val_loss"]
    for entry in losses:
        assert entry["val_loss"] == pytest.approx(10 * entry["val_loss_vsum"] + entry["val_loss_tsum"])
    messages = re.findall(r"epoch (\d): loss .*, val_loss (\d+\.\d{4})", (whole / "train.log").read_text())
    assert messages == [(str(n), f"{entry['val_loss']:.4f}") for n, entry in enumerate(losses, 1)]

    def stop_in_validation(*args):  # as at a signal
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr("engine.validation.ValidationLosses.compute", stop_in_validation)
        train("resumed", *flags, "--ckpt_steps", "2")
    assert read_checkpoint(without.parent / "resumed/checkpoint.pth")["progress"]["done"] == 2
    resumed = train("resumed", *flags)
    assert_same_training(resumed, without)
    assert read_val_losses(resumed) == losses


def test_values_are_those_of_the_model_in_evaluation_mode(train, mini_root, mini_model):
    """The split is one batch here: the losses are the model's."""
    folder = train("run", "--splits", "val", "--caption_metrics", "auto", "--max_epoch", "1")
    model = mini_model().eval()
    model.load_state_dict(read_checkpoint(folder / "checkpoint.pth")["model"])
    dataset = VideoXum(
        mini_root / "anno/val_videoxum.json", mini_root / "feat/blip", width=768, prompt="a video of ", max_words=40
    )
    batch = collate([dataset[i] for i in range(len(dataset))])
    with torch.no_grad():
        losses = model(batch.video_embeddings, batch.video_mask, batch.vsum_labels, batch.captions)
    (logged,) = read_val_losses(folder)
    assert [logged["val_loss_tsum"], logged["val_loss_vsum"]] == pytest.approx(
        [loss.item() for loss in losses], rel=1e-5
    )


@pytest.mark.parametrize("missing", ["file", "labels"])
def test_a_split_that_is_not_scored_may_be_missing(train, mini_root, tmp_path, missing):
    anno = shutil.copytree(mini_root / "anno", tmp_path / "anno")
    path = anno / "val_videoxum.json"
    if missing == "file":
        path.unlink()
    else:
        entries = json.loads(path.read_text())
        del entries[0]["vsum_onehot"], entries[0]["sampled_frames"]
        path.write_text(json.dumps(entries))
    flags = ("--task", "v2v", "--max_epoch", "1", "--ann_root", str(anno), "--splits")
    folder = train("run", *flags, "test")
    assert read_val_losses(folder) == [{}]
    (line,) = [line for line in (folder / "train.log").read_text().splitlines() if "val_loss: no" in line]
    reason = {"file": "annotations: no such file", "labels": "vsum_onehot: missing"}[missing]
    assert f"val_loss: no validation losses: {path}: " in line and reason in line
    with pytest.raises((FileNotFoundError, ValueError), match=reason):
        train("scored", *flags, "val")
