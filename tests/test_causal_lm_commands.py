"""Training and evaluation with a language model as the caption decoder, by the scripts."""

import json
import signal

import pytest
import torch

import eval_v2vt_sum
from benchmarks.language_models import write_language_model
from models.weights import read_checkpoint
from tests.conftest import ROOT
from tests.helpers.harness import Run, assert_same_run, count_steps, read_log


@pytest.fixture
def language_model(mini_root, tmp_path):
    return write_language_model(tmp_path / "language_model", "gpt2", mini_root / "tokenizer")


def test_train_evaluate_and_refuse_another_base(train, mini_flags, mini_root, language_model, tmp_path):
    flags = ["--decoder", "causal_lm", "--decoder_path", str(language_model), "--max_epoch", "1", "--splits", "test"]
    run = train("run", *flags)
    assert " of them trained; 33 videos, 3 batches per epoch" in (run / "train.log").read_text()
    checkpoint = read_checkpoint(run / "checkpoint.pth")
    names = {name for name in checkpoint["model"] if name.startswith("text_decoder.")}
    assert names == {f"text_decoder.projector.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}
    assert checkpoint["decoder_base"]["name"] == str(language_model)
    assert len(checkpoint["optimizer"]["state"]) == len(checkpoint["model"])
    assert checkpoint["config"]["decoder"] == "causal_lm"
    trained = json.loads((run / "results_test.json").read_text())["metrics"]
    assert {"CIDEr", "Kendall", "VT_CLIPScore"} <= trained.keys()

    moved = language_model.rename(tmp_path / "moved")
    other = write_language_model(tmp_path / "other", "gpt2", mini_root / "tokenizer", seed=1)

    def evaluate(path):
        eval_flags = [*flags, "--decoder_path", str(path), "--pretrained_model", str(run / "checkpoint.pth")]
        eval_v2vt_sum.main(
            ["--config", str(ROOT / "configs/mini.yaml"), *mini_flags, "--output_dir", "evaluation", *eval_flags]
        )

    evaluate(moved)
    results = json.loads((tmp_path / "evaluation/results_test.json").read_text())
    assert results["metrics"] == pytest.approx(trained, abs=1e-6)
    assert results["trained_with"]["decoder_path"] == str(language_model)
    message = r"checkpoint.pth: decoder_base: sha256: found .*other \(\w+…\), expected .*language_model \("
    with pytest.raises(ValueError, match=message):
        evaluate(other)
    with pytest.raises(ValueError, match=message):
        start = ["--pretrained_model", str(run / "checkpoint.pth")]
        train("started from it", *flags, "--decoder_path", str(other), *start)
    with pytest.raises(ValueError, match=rf"{message}.*, as in training; change decoder_path$"):
        train("run", *flags, "--decoder_path", str(other))
    with pytest.raises(ValueError, match=r"other settings: decoder_train \(was 'projector', is 'lora'\)"):
        train("run", *flags, "--decoder_path", str(moved), "--decoder_train", "lora")
    train("run", *flags, "--decoder_path", str(moved))  # resumes
    with pytest.raises(
        ValueError, match=r"decoder_path: found 200 positions, expected enough for \d+ frames and 190 to"
    ):
        train("short", *flags, "--decoder_path", str(moved), "--max_text_length", "190")
    assert not (tmp_path / "short/checkpoint.pth").exists()


@pytest.mark.parametrize(("family", "decoder_train", "size"), [("gpt2", "all", 1), ("qwen3", "lora", 2)])
def test_killed_run_resumes_to_the_same_bytes(mini_root, tmp_path, family, decoder_train, size):
    language_model = write_language_model(tmp_path / "language_model", family, mini_root / "tokenizer")
    argv = [
        *("--config", ROOT / "configs/mini.yaml", "--output_dir", "run", "--num_workers", "0", "--device", "cpu"),
        *("--video_embeddings_root", mini_root / "feat/blip", "--ann_root", mini_root / "anno", "--clip_root", ""),
        *("--task", "v2t", "--decoder", "causal_lm", "--decoder_path", language_model, "--tt_depth", "0"),
        *("--decoder_train", decoder_train, "--decoder_lora_rank", "4", "--batch_size", 8 // size, "--max_epoch", "2"),
        *("--ckpt_steps", "1", "--log_freq", "1", "--splits", "val"),
    ]
    folders = {name: tmp_path / name for name in ("killed", "reference")}
    for folder in folders.values():
        folder.mkdir()
    killed = Run("train_v2vt_sum", argv, folders["killed"], size)
    killed.wait_until(lambda: count_steps(folders["killed"] / "run") >= 3)
    killed.signal(signal.SIGKILL)
    assert killed.wait() == [-signal.SIGKILL] * size
    for folder in folders.values():
        run = Run("train_v2vt_sum", argv, folder, size)
        assert run.wait() == [0] * size, run.output()
    assert_same_run(folders["killed"] / "run", folders["reference"] / "run")
    assert len(read_log(folders["killed"] / "run")) == 8 + 2 + 1
    checkpoint = torch.load(folders["killed"] / "run/checkpoint.pth", weights_only=True)
    assert any("text_decoder.base" in name for name in checkpoint["model"])
