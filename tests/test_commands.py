"""The documented commands and the two scripts, run as a user runs them."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess

import numpy as np
import pytest
import torch

import eval_v2vt_sum
import train_v2vt_sum
from models.vtsum_blip import v2vt_sum
from models.weights import load_weights
from tests.conftest import ROOT
from tests.documents import commands
from tests.faults.harness import Run
from tests.processes import run


@pytest.fixture(scope="module")
def clone(tmp_path_factory, mini_root):
    """A folder that looks like a user's clone with the data and BLIP's weights in place: small ones."""
    root = tmp_path_factory.mktemp("clone")
    for name in ("train_v2vt_sum.py", "eval_v2vt_sum.py", "configs"):
        (root / name).symlink_to(ROOT / name)
    (root / "dataset").mkdir()
    shutil.copytree(mini_root, root / "dataset/ActivityNet")
    for folder in ("blip", "vt_clipscore"):
        (root / "outputs" / folder).mkdir(parents=True)
    shutil.copy(mini_root / "vt_clip.pth", root / "outputs/vt_clipscore/vt_clip.pth")
    med = json.loads((ROOT / "configs/med_config_mini.json").read_text())
    med |= dict(hidden_size=768, num_attention_heads=12, num_hidden_layers=1)
    (root / "med.json").write_text(json.dumps(med))
    torch.manual_seed(0)
    blip = v2vt_sum("vtsum_blip_tt", med_config=str(root / "med.json"), tokenizer=str(mini_root / "tokenizer"))
    state = {name: value for name, value in blip.state_dict().items() if name.startswith("text_decoder.")}
    state["visual_encoder.cls_token"] = torch.zeros(1, 1, 768)
    torch.save(dict(model=state), root / "outputs/blip/model_base_capfilt_large.pth")
    return root


ADDED = ["--tokenizer", "dataset/ActivityNet/tokenizer", "--med_config", "med.json", "--num_workers", "0"]


def published(clone, command, processes, *flags, launcher=True):
    """Run a published command with another number of processes; only the sizes of the decoder and flags are added.

    Without the launcher the processes are forked from a server that has imported everything, which is faster.
    """
    assert "--nproc_per_node=4" in command
    words = shlex.split(command.replace("--nproc_per_node=4", f"--nproc_per_node={processes}"))
    added = [*ADDED, *flags, *(["--max_epoch", "1"] if "--max_epoch" in words else [])]
    if launcher:
        status, shown = run([*words, *added], clone)
        assert status == 0, shown
        return shown
    script = next(word for word in words if word.endswith(".py"))
    forked = Run(script.removesuffix(".py"), [*words[words.index(script) + 1 :], *added], clone, processes)
    assert forked.wait() == [0] * processes, forked.said()
    return forked.said()


def metrics(folder, split="test"):
    return json.loads((folder / f"results_{split}.json").read_text())["metrics"]


def test_the_published_commands(clone):
    """Two trainings, two evaluations, on two gloo processes; then 7 videos over 1 and 3 processes."""
    train_tt, train_ca = commands("training", "train_v2vt_sum.py")[:2]
    eval_tt, eval_ca = commands("evaluation", "eval_v2vt_sum.py")[:2]
    tt, ca = clone / "outputs/vtsum_tt", clone / "outputs/vtsum_tt_ca"

    shown = published(clone, train_tt, 2, "--splits", "val")
    assert "model: the config says 'vtsum_blip_tt', the flag says 'vtsum_blip_tt_ca'" in shown
    config = (tt / "config.yaml").read_text()
    assert "model: vtsum_blip_tt_ca" in config
    shutil.copy(tt / "checkpoint.pth", tt / "vtsum_tt.pth")
    shown = published(clone, eval_tt, 2, "--splits", "val", launcher=False)
    assert "left out context aggregation" in shown
    assert (tt / "config.yaml").read_text() == config
    assert "model: vtsum_blip_tt\n" in (tt / "config_eval.yaml").read_text()

    published(clone, train_ca, 2, launcher=False)
    trained = {split: metrics(ca, split) for split in ("val", "test")}
    shutil.copy(ca / "checkpoint.pth", ca / "vtsum_tt_ca.pth")
    for processes, splits in ((2, ("val", "test")), (1, ("test",)), (3, ("test",))):
        published(clone, eval_ca, processes, "--splits", *splits, launcher=processes == 2)
        for split in splits:
            count = dict(val=3, test=7)[split]
            assert metrics(ca, split) == pytest.approx(trained[split], abs=1e-6)
            results = json.loads((ca / f"results_{split}.json").read_text())
            assert results["num_videos"] == dict(expected=count, scored=count)
    assert len(trained["test"]) == 14

    files = {str(path.relative_to(ca)) for path in ca.rglob("*") if path.is_file()}
    expected = {"config.yaml", "config_eval.yaml", "train.log", "eval.log", "log.jsonl", "checkpoint.pth"}
    for split in ("val", "test"):
        expected |= {f"result/{split}.json", f"result/gt_{split}.json", f"predictions_{split}.jsonl"}
        expected |= {f"scores_{split}.jsonl", f"results_{split}.json", f"evaluate_{split}.txt"}
    assert files == expected | {"vtsum_tt_ca.pth"}
    assert len((ca / "evaluate_test.txt").read_text().splitlines()) == 4
    log = [json.loads(line) for line in (ca / "log.jsonl").read_text().splitlines()]
    assert [entry["type"] for entry in log] == ["step", "epoch", "evaluation", "evaluation"]
    assert log[0]["loss"] == pytest.approx(15 * log[0]["loss_vsum"] + log[0]["loss_tsum"])
    assert log[0]["lr"] == 2e-5
    captions = json.loads((ca / "result/test.json").read_text())
    truth = json.loads((ca / "result/gt_test.json").read_text())
    assert [c["image_id"] for c in captions] == [a["image_id"] for a in truth["annotations"]] == list(range(7))


def weights(folder, name="checkpoint.pth"):
    return torch.load(folder / name, weights_only=True)["model"]


def test_a_resumed_run_ends_with_the_same_bytes(train):
    whole = train("whole", "--max_epoch", "2", "--ckpt_freq", "1", "--splits", "val")
    assert sorted(p.name for p in (whole / "checkpoints").iterdir()) == ["checkpoint_000.pth", "checkpoint_001.pth"]
    first = str(whole / "checkpoints/checkpoint_000.pth")
    resumed = train("resumed", "--max_epoch", "2", "--resume", first, "--splits", "val")
    ours, theirs = weights(whole), weights(resumed)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert metrics(whole, "val") == metrics(resumed, "val")


def test_evaluate_only_scores(train):
    run = train("run", "--max_epoch", "1", "--splits", "test")
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.name in ("config.yaml", "checkpoint.pth")}
    found = metrics(run)
    (run / "results_test.json").unlink()
    train("run", "--evaluate", "--splits", "test", "--batch_size", "2")
    assert metrics(run) == pytest.approx(found, abs=1e-6)
    assert all((run / name).read_bytes() == content for name, content in before.items())
    with pytest.raises(ValueError, match="evaluate: found neither pretrained_model, resume nor"):
        train("empty", "--evaluate")


@pytest.mark.parametrize(("task", "missing"), [("v2v", "METEOR"), ("v2t", "F1")])
def test_single_tasks(train, task, missing, mini_flags):
    folder = train("run", "--max_epoch", "1", "--task", task, "--loss_type", "l2", "--smoothing_scope", "scored")
    found = metrics(folder)
    assert missing not in found and "VT_CLIPScore" not in found and len(found) in (6, 7)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert ("loss_tsum" in log[0]) == (task == "v2t") and ("loss_vsum" in log[0]) == (task == "v2v")


def test_training_learns_and_scores_on_the_way(train):
    folder = train("run", "--max_epoch", "4", "--eval_freq", "2", "--splits", "val", "--init_lr", "1e-3")
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if entry["type"] == "epoch"]
    assert losses[-1] < 0.8 * losses[0]
    assert [entry["epoch"] for entry in log if entry["type"] == "evaluation"] == [1, 3]
    rates = [entry["lr"] for entry in log if entry["type"] == "step"]
    assert rates[0] == 1e-3 and rates == sorted(rates, reverse=True) and len(set(rates)) == 4


@pytest.mark.parametrize("config", ["vtsum_blip_tt_ca.yaml", "mini.yaml", "ablations/no_tt.yaml"])
def test_every_shipped_yaml_trains(train, config):
    """But vtsum_blip_tt.yaml, which ablations/no_tt.yaml starts from, and vt_clip.yaml, which is tested by itself."""
    folder = train("run", "--max_epoch", "1", "--splits", "val", "--max_text_length", "30", config=config)
    assert (folder / "results_val.json").is_file()


def test_pretrained_model_is_where_training_starts(train, caplog):
    first = train("first", "--max_epoch", "1", "--splits", "val")
    second = train(
        "second",
        "--max_epoch",
        "1",
        "--splits",
        "val",
        "--init_lr",
        "1e-12",
        "--pretrained_model",
        "first/checkpoint.pth",
    )
    ours, theirs = weights(first), weights(second)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)


def test_a_copy_that_the_end_came_before_is_made_later(train):
    """Killed between a checkpoint and its copy, a run makes the copy when it goes on; leftovers go."""
    words = ("--max_epoch", "1", "--splits", "val", "--task", "v2v", "--ckpt_freq", "1")
    folder = train("run", *words)
    copy = folder / "checkpoints/checkpoint_000.pth"
    copy.unlink()
    process = subprocess.Popen(["true"])
    process.wait()
    leftover = folder / f".results_val.json.{os.uname().nodename}.{process.pid}.tmp"
    leftover.touch()
    train("run", *words)
    assert copy.read_bytes() == (folder / "checkpoint.pth").read_bytes() and not leftover.exists()


def test_the_best_of_another_metric_is_no_bar(train):
    words = ("--splits", "val", "--task", "v2v", "--eval_freq", "1", "--best_metric")
    first = train("run", "--max_epoch", "1", *words, "F1")
    assert "checkpoint_best.pth: best so far: F1" in (first / "train.log").read_text()
    (first / "checkpoint_best.pth").unlink()
    train("run", "--max_epoch", "1", *words, "Spearman")
    assert "checkpoint_best.pth: best so far: Spearman" in (first / "train.log").read_text()


def test_a_missing_vt_clip_is_said_before_the_run(train, caplog):
    folder = train("run", "--max_epoch", "1", "--splits", "val", "--pretrained_clip", "none.pth")
    assert "VT_CLIPScore" not in metrics(folder, "val")
    messages = (folder / "train.log").read_text()
    assert messages.index("VT_CLIPScore is left out: pretrained_clip: no file 'none.pth'") < messages.index("epoch 0")


def test_a_checkpoint_of_another_task_says_which(train, mini_flags, tmp_path):
    folder = train("run", "--max_epoch", "1", "--splits", "val", "--task", "v2v")
    words = ["--config", str(ROOT / "configs/mini.yaml"), *mini_flags, "--output_dir", "eval", "--splits", "val"]
    message = (
        r"does not fit the model; missing: text_decoder.* and \d+ more; task: the checkpoint was trained with 'v2v'"
    )
    with pytest.raises(ValueError, match=message):
        eval_v2vt_sum.main([*words, "--pretrained_model", str(folder / "checkpoint.pth")])


def test_a_loss_that_is_not_finite_stops_the_run(train, mini_root, tmp_path):
    broken = shutil.copytree(mini_root / "feat/blip", tmp_path / "blip")
    for path in broken.glob("mini_train_*.npz"):
        np.savez(path, features=np.full_like(np.load(path)["features"], 1e38))
    with pytest.raises(FloatingPointError, match=r"epoch 0, step 0: not finite: loss nan.*videos: mini_train_"):
        train("run", "--max_epoch", "1", "--video_embeddings_root", str(broken))
    assert not (tmp_path / "run/checkpoint.pth").exists()


def test_what_scoring_needs_is_checked_before_the_first_epoch(train, mini_root, tmp_path):
    anno = shutil.copytree(mini_root / "anno", tmp_path / "anno")
    (anno / "test_videoxum.json").unlink()
    with pytest.raises(FileNotFoundError, match="test_videoxum.json: annotations: no such file"):
        train("run", "--max_epoch", "1", "--ann_root", str(anno))
    clip = shutil.copytree(mini_root / "feat/vt_clipscore", tmp_path / "clip")
    (clip / "mini_val_001.npz").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"mini_val_001.npz: video mini_val_001: VT-CLIP features: no such file"
    ):
        train("run", "--max_epoch", "1", "--clip_root", str(clip))
    assert not (tmp_path / "run/checkpoint.pth").exists()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--kernal_size", "5"], "error: --kernal_size: unknown flag; did you mean --kernel_size?"),
        ([], "error: pretrained_model: missing, expected the checkpoint to score (--pretrained_model PATH)"),
    ],
)
def test_mistakes_are_one_line_and_status_2(clone, flags, line):
    status, shown = run(["python", "eval_v2vt_sum.py", "--config", "configs/vtsum_blip_tt.yaml", *flags], clone)
    assert (status, shown.strip()) == (2, line)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_bad_feature_file_is_one_line_and_status_2(clone, mini_flags, tmp_path, workers):
    """From the loader's worker processes too."""
    blip = shutil.copytree(clone / "dataset/ActivityNet/feat/blip", tmp_path / "blip")
    np.savez(blip / "mini_train_003.npz", features=np.ones((4, 700), np.float32))
    words = ["python", "train_v2vt_sum.py", "--config", "configs/mini.yaml", *mini_flags, "--batch_size", "33"]
    words += ["--video_embeddings_root", str(blip), "--output_dir", str(tmp_path / "out"), "--num_workers", workers]
    status, shown = run(words, clone)
    path = blip / "mini_train_003.npz"
    assert status == 2
    assert (
        shown.strip().splitlines()[-1]
        == f"error: {path}: video mini_train_003: features: found shape (4, 700), expected (frames, 768)"
    )
    assert "Traceback" not in shown


def test_the_own_class_scores_what_it_is_given(mini_flags, tmp_path, monkeypatch, mini_root):
    """`eval_v2vt_sum.py` scores exactly --pretrained_model, whatever else lies in the folder."""
    monkeypatch.chdir(tmp_path)
    words = ["--config", str(ROOT / "configs/mini.yaml"), *mini_flags, "--output_dir", "out", "--splits", "val"]
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = v2vt_sum(
            "vtsum_blip_tt_ca",
            med_config=str(ROOT / "configs/med_config_mini.json"),
            tokenizer=str(mini_root / "tokenizer"),
        )
        torch.save(dict(model=model.state_dict()), f"{seed}.pth")
        eval_v2vt_sum.main([*words, "--pretrained_model", f"{seed}.pth"])
        results.append(json.loads(pathlib.Path("out/results_val.json").read_text()))
    shutil.copy("0.pth", "out/checkpoint.pth")
    eval_v2vt_sum.main([*words, "--pretrained_model", "1.pth"])
    again = json.loads(pathlib.Path("out/results_val.json").read_text())
    assert again["metrics"] == results[1]["metrics"] != results[0]["metrics"]
    assert again["checkpoint_sha256"] == results[1]["checkpoint_sha256"] != results[0]["checkpoint_sha256"]
    assert again["config"]["pretrained_model"] == "1.pth" and again["versions"]["torch"] == torch.__version__
    load_weights(model, "0.pth")


def test_a_finished_run_that_is_resumed_is_scored(train):
    first = train("first", "--max_epoch", "1", "--splits", "val", "--task", "v2v")
    again = train("again", "--max_epoch", "1", "--splits", "val", "--task", "v2v", "--resume", "first/checkpoint.pth")
    assert metrics(first, "val") == metrics(again, "val")
    assert not (again / "checkpoint.pth").exists()


def test_scoring_with_other_settings_than_trained_warns(train):
    folder = train("run", "--max_epoch", "1", "--splits", "val", "--task", "v2v")
    train("run", "--evaluate", "--splits", "val", "--task", "v2v", "--kernel_size", "9")
    assert "kernel_size: the checkpoint was trained with 5, this run says 9" in (folder / "eval.log").read_text()


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        (
            train_v2vt_sum,
            [],
            "outputs/blip/model_base_capfilt_large.pth: pretrained: no such file; it is part of BLIP's release",
        ),
        (
            train_v2vt_sum,
            ["--pretrained", ""],
            "train_videoxum.json: annotations: no such file; python -m data.download",
        ),
        (
            eval_v2vt_sum,
            ["--pretrained_model", "x.pth"],
            "val_videoxum.json: annotations: no such file; python -m data",
        ),
    ],
)
def test_without_the_data_the_first_line_says_what_to_do(script, flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=message):
        script.main(["--config", str(ROOT / "configs/vtsum_blip_tt_ca.yaml"), *flags])
    assert not list(tmp_path.iterdir())
