"""The documented commands and the scripts for training and evaluation, run as a user runs them."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest
import torch

import eval_v2vt_sum
import train_v2vt_sum
from engine.config import Config
from engine.setup import find_weights_to_evaluate
from metrics.baselines import BASELINES
from metrics.registry import METRICS
from models.vt_clip import load_vt_clip
from models.vtsum_blip import v2vt_sum
from models.weights import load_weights
from models.weights import main as convert_weights
from report.__main__ import main as report_main
from tests.conftest import ROOT
from tests.helpers.device_options import expect_device_options
from tests.helpers.documents import read_launcher_commands
from tests.helpers.harness import Run
from tests.helpers.processes import run
from tests.helpers.published import convert_to_published
from tests.helpers.torchscript import write_torchscript


@pytest.fixture(scope="module")
def clone(tmp_path_factory, mini_root):
    """Folder like a user's clone with data and BLIP's weights, in small sizes."""
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


SMALL_FLAGS = ["--tokenizer", "dataset/ActivityNet/tokenizer", "--med_config", "med.json", "--num_workers", "0"]


def run_published_command(clone, command, processes, *flags, launcher=True):
    """Run a published command with another number of processes, a small decoder and additional flags.

    Without the launcher, the processes are forked from a server that has already imported all modules.
    """
    assert "--nproc_per_node=4" in command
    argv = shlex.split(command.replace("--nproc_per_node=4", f"--nproc_per_node={processes}"))
    extra_flags = [*SMALL_FLAGS, *flags, *(["--max_epoch", "1"] if "--max_epoch" in argv else [])]
    if launcher:
        status, output = run([*argv, *extra_flags], clone)
        assert status == 0, output
        return output
    script = next(word for word in argv if word.endswith(".py"))
    forked = Run(script.removesuffix(".py"), [*argv[argv.index(script) + 1 :], *extra_flags], clone, processes)
    assert forked.wait() == [0] * processes, forked.output()
    return forked.output()


def read_metrics(folder, split="test"):
    return json.loads((folder / f"results_{split}.json").read_text())["metrics"]


def test_published_commands(clone):
    """Two trainings, two evaluations, on two gloo processes; then 7 videos over 1 and 3 processes.

    The training of TT is in bf16, as documented. That of TT+CA is in float32, the default, in which the metrics do not
    depend on the batches.
    """
    train_tt, train_ca = read_launcher_commands("training", "train_v2vt_sum.py")[:2]
    eval_tt, eval_ca = read_launcher_commands("evaluation", "eval_v2vt_sum.py")[:2]
    tt, ca = clone / "outputs/vtsum_tt", clone / "outputs/vtsum_tt_ca"

    output = run_published_command(clone, train_tt, 2, "--splits", "val")
    assert "model: the flag's 'vtsum_blip_tt_ca' overrides the config's 'vtsum_blip_tt'" in output
    config = (tt / "config.yaml").read_text()
    assert "model: vtsum_blip_tt_ca" in config
    shutil.copy(tt / "checkpoint.pth", tt / "vtsum_tt.pth")
    output = run_published_command(clone, eval_tt, 2, "--splits", "val", launcher=False)
    assert "ignored context aggregation" in output
    assert (tt / "config.yaml").read_text() == config
    assert "model: vtsum_blip_tt\n" in (tt / "config_eval.yaml").read_text()

    assert all("--precision bf16" in command for command in (train_tt, train_ca))
    assert "precision: bf16" in config
    assert json.loads((tt / "results_val.json").read_text())["config"]["precision"] == "fp32"
    run_published_command(clone, train_ca, 2, "--precision", "fp32", launcher=False)
    trained = {split: read_metrics(ca, split) for split in ("val", "test")}
    shutil.copy(ca / "checkpoint.pth", ca / "vtsum_tt_ca.pth")
    for processes, splits in ((2, ("val", "test")), (1, ("test",)), (3, ("test",))):
        run_published_command(
            clone, eval_ca, processes, "--precision", "fp32", "--splits", *splits, launcher=processes == 2
        )
        for split in splits:
            count = dict(val=3, test=7)[split]
            assert read_metrics(ca, split) == pytest.approx(trained[split], abs=1e-6)
            results = json.loads((ca / f"results_{split}.json").read_text())
            assert results["num_videos"] == dict(expected=count, scored=count)
    assert len(trained["test"]) == len(METRICS)

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
    assert (
        [caption["image_id"] for caption in captions]
        == [annotation["image_id"] for annotation in truth["annotations"]]
        == list(range(7))
    )


def read_weights(folder, name="checkpoint.pth"):
    return torch.load(folder / name, weights_only=True)["model"]


def test_a_resumed_run_ends_with_the_same_bytes(train):
    whole = train("whole", "--max_epoch", "2", "--ckpt_freq", "1", "--splits", "val")
    assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == [
        "checkpoint_000.pth",
        "checkpoint_001.pth",
    ]
    first = str(whole / "checkpoints/checkpoint_000.pth")
    resumed = train("resumed", "--max_epoch", "2", "--resume", first, "--splits", "val")
    expected, actual = read_weights(whole), read_weights(resumed)
    assert expected.keys() == actual.keys() and all(torch.equal(expected[name], actual[name]) for name in expected)
    assert read_metrics(whole, "val") == read_metrics(resumed, "val")


@pytest.mark.parametrize("resume", ["published.pth", "auto"])
def test_published_checkpoint_is_resumed_to_the_same_bytes(train, tmp_path, resume):
    """The checkpoint of an epoch, rewritten in the published layout, continues as this project's own."""
    flags = ("--max_epoch", "2", "--model", "vtsum_blip_tt_ca", "--splits", "val", "--batch_size", "8")
    whole = train("whole", *flags, "--ckpt_freq", "1")
    published = convert_to_published(torch.load(whole / "checkpoints/checkpoint_000.pth", weights_only=True))
    assert list(published) == ["model", "optimizer", "config", "epoch"]
    assert list(published["model"])[-1].startswith("local_atten_head.")
    assert type(published["optimizer"]["state"][0]["step"]) is int
    if resume == "auto":
        (tmp_path / "resumed").mkdir()
    path = "resumed/checkpoint.pth" if resume == "auto" else resume
    torch.save(published, path)
    resumed = train("resumed", *flags, "--resume", resume)
    assert f"{path}: resumed at epoch 2, after 0 of 4 batches" in (resumed / "train.log").read_text()
    assert "trained with other settings" not in (resumed / "train.log").read_text()
    expected, actual = (torch.load(run / "checkpoint.pth", weights_only=True) for run in (whole, resumed))
    assert all(torch.equal(actual["model"][name], value) for name, value in expected["model"].items())
    for i, state in expected["optimizer"]["state"].items():
        assert all(torch.equal(actual["optimizer"]["state"][i][name], value) for name, value in state.items())
    assert read_metrics(whole, "val") == read_metrics(resumed, "val")


@pytest.fixture
def write_dataset(mini_root, tmp_path):
    """Return a function that writes mini VideoXum's annotations, each record changed: flags that select them."""

    def write(change):
        (tmp_path / "anno").mkdir()
        for path in (mini_root / "anno").iterdir():
            entries = json.loads(path.read_text())
            for i, entry in enumerate(entries):
                change(entry, i)
            (tmp_path / "anno" / path.name).write_text(json.dumps(entries))
        return ["--ann_root", str(tmp_path / "anno"), "--splits", "val", "--max_epoch", "1"]

    return write


@pytest.mark.parametrize(("task", "fields"), [("v2v", ["tsum"]), ("v2t", ["vsum_onehot", "sampled_frames"])])
def test_a_task_needs_only_its_own_labels(train, write_dataset, task, fields):
    flags = write_dataset(lambda entry, i: [entry.pop(field) for field in fields])
    results = read_metrics(train("run", *flags, "--task", task), "val")
    assert ("F1" in results) == (task == "v2v") and ("CIDEr" in results) == (task == "v2t")
    with pytest.raises(
        ValueError, match=f"{fields[0]}: missing, expected .*; the tasks v2v and v2t need only one kind"
    ):
        train("both", *flags)


@pytest.mark.parametrize("loss_type", ["cross_entropy", "l2"])
def test_graded_labels_of_any_number_of_annotators_and_references(train, write_dataset, loss_type):
    def change(entry, i):
        rows = np.array(entry.pop("vsum_onehot"), float)[: 1 + i % 4]
        entry["importance"] = (rows * (0.5 + 0.1 * np.arange(len(rows)))[:, None]).tolist()
        entry["references"] = ["".join(entry.pop("tsum")), "Something else happens."]

    folder = train("run", *write_dataset(change), "--loss_type", loss_type)
    results = json.loads((folder / "results_val.json").read_text())
    assert results["keyframes_from"] == "importance" and set(results["metrics"]) == set(METRICS)
    assert set(results["baselines"]) == set(BASELINES)  # one of the videos has several annotators
    truth = json.loads((folder / "result/gt_val.json").read_text())
    assert len(truth["images"]) == 3 and len(truth["annotations"]) == 6
    report_main([str(folder), "--split", "val"])
    assert "References" in (folder / "report.html").read_text()


def test_subsets(train, mini_root, tmp_path):
    names = {
        split: [entry["video_id"] for entry in json.loads((mini_root / f"anno/{split}_videoxum.json").read_text())]
        for split in ("train", "val")
    }
    (tmp_path / "available.txt").write_text("\n".join([*names["train"][:12], *names["val"][:2]]))
    (tmp_path / "first.txt").write_text(names["val"][0])
    flags = ("--max_epoch", "1", "--splits", "val", "--task", "v2v")
    folder = train("run", *flags, "--subset", "available.txt", "--also_subset", "first.txt")
    assert "12 videos, 1 batches per epoch" in (folder / "train.log").read_text()
    results = json.loads((folder / "results_val.json").read_text())
    assert results["num_videos"] == dict(expected=2, scored=2) and results["subset"]["num_videos"] == 2
    assert results["subsets"]["first"]["num_videos"] == dict(expected=1, scored=1)
    assert len((folder / "scores_val.jsonl").read_text().splitlines()) == 2
    with pytest.raises(ValueError, match="other settings: subset .*, ann_root, subset .other training videos"):
        train("run", *flags)
    with pytest.raises(FileNotFoundError, match="none.txt: subset: no such file"):
        train("other", *flags, "--also_subset", "none.txt")
    with pytest.raises(ValueError, match="first.txt: subset: found none of the 33 videos of .*train_videoxum.json"):
        train("other", *flags, "--subset", "first.txt")


@pytest.mark.parametrize("name", ["mini_train_020", "mini_val_001"])
def test_features_of_another_length_fail_before_the_first_epoch(train, mini_root, tmp_path, name):
    blip = shutil.copytree(mini_root / "feat/blip", tmp_path / "blip")
    path = blip / f"{name}.npz"
    np.savez(path, features=np.load(path)["features"][:-1])
    with pytest.raises(
        ValueError, match=f"{path}: video {name}: features: found .* frames, expected .* as in the labels"
    ):
        train("run", "--video_embeddings_root", str(blip), "--splits", "val")
    assert not (tmp_path / "run/log.jsonl").exists()


def test_evaluate_flag_does_not_train(train):
    with expect_device_options(tf32=True):
        run = train("run", "--max_epoch", "1", "--splits", "test", "--tf32")
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.name in ("config.yaml", "checkpoint.pth")}
    expected = read_metrics(run)
    (run / "results_test.json").unlink()
    with expect_device_options(tf32=True):
        train("run", "--evaluate", "--splits", "test", "--tf32", "--batch_size", "2")
    assert read_metrics(run) == pytest.approx(expected, abs=1e-6)
    assert all((run / name).read_bytes() == content for name, content in before.items())


def test_weights_to_evaluate(tmp_path):
    """The order of docs/evaluation.md; BLIP's weights, which the published script evaluated, only if they are named."""
    config = Config(output_dir=str(tmp_path), pretrained="blip.pth")
    newest = tmp_path / "checkpoint.pth"
    with pytest.raises(ValueError) as caught:
        find_weights_to_evaluate(config)
    message = (
        f"evaluate: found no weights: set pretrained_model, or resume, or train until {newest} exists (the first of "
        "the three is evaluated)"
    )
    hint = "; pretrained only initializes training: --pretrained_model blip.pth evaluates it"
    assert str(caught.value) == message + hint
    with pytest.raises(ValueError) as caught:
        find_weights_to_evaluate(config.replace(pretrained="", resume=""))
    assert str(caught.value) == message
    newest.touch()
    assert find_weights_to_evaluate(config) == str(newest)
    assert find_weights_to_evaluate(config.replace(resume="other.pth")) == "other.pth"
    both = config.replace(resume="other.pth", pretrained_model="model.pth")
    assert find_weights_to_evaluate(both) == "model.pth"


def test_weights_of_pretrained_are_evaluated_as_the_error_proposes(clone):
    argv = ["--config", "configs/vtsum_blip_tt.yaml", *SMALL_FLAGS, "--output_dir", "outputs/blip_eval", "--evaluate"]
    argv += ["--splits", "val", "--max_text_length", "20"]
    evaluation = Run("train_v2vt_sum", argv, clone)
    assert evaluation.wait() == [2]
    last = evaluation.output().strip().splitlines()[-1]
    assert last.startswith("error: evaluate: found no weights: ") and last.endswith(" evaluates it")
    proposed = re.search(r"--pretrained_model \S+", last)[0].split()
    evaluation = Run("train_v2vt_sum", [*argv, *proposed], clone)
    assert evaluation.wait() == [0], evaluation.output()
    assert len(read_metrics(clone / "outputs/blip_eval", "val")) == len(METRICS)


@pytest.mark.parametrize(("task", "missing"), [("v2v", "METEOR"), ("v2t", "F1")])
def test_single_tasks(train, task, missing, mini_flags):
    folder = train("run", "--max_epoch", "1", "--task", task, "--loss_type", "l2", "--smoothing_scope", "scored")
    scores = read_metrics(folder)
    assert missing not in scores and "VT_CLIPScore" not in scores and len(scores) in (6, 7)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert ("loss_tsum" in log[0]) == (task == "v2t") and ("loss_vsum" in log[0]) == (task == "v2v")


def test_training_reduces_the_loss_and_evaluates(train):
    folder = train("run", "--max_epoch", "4", "--eval_freq", "2", "--splits", "val", "--init_lr", "1e-3")
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if entry["type"] == "epoch"]
    assert losses[-1] < 0.8 * losses[0]
    assert [entry["epoch"] for entry in log if entry["type"] == "evaluation"] == [1, 3]
    rates = [entry["lr"] for entry in log if entry["type"] == "step"]
    assert rates[0] == 1e-3 and rates == sorted(rates, reverse=True) and len(set(rates)) == 4


@pytest.mark.parametrize("config", ["vtsum_blip_tt_ca.yaml", "mini.yaml", "ablations/no_tt.yaml"])
def test_shipped_configs_train(train, config):
    """All except vtsum_blip_tt.yaml, the base of ablations/no_tt.yaml, and vt_clip.yaml, which has its own tests."""
    folder = train("run", "--max_epoch", "1", "--splits", "val", "--max_text_length", "30", config=config)
    assert (folder / "results_val.json").is_file()


def test_training_starts_from_pretrained_model(train, caplog):
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
    pretrained, trained = read_weights(first), read_weights(second)
    assert all(torch.allclose(pretrained[name], trained[name], atol=1e-6) for name in pretrained)


def test_missing_snapshot_is_made_on_resume(train):
    """A run killed between checkpoint and snapshot makes the snapshot when resumed and removes temporary files."""
    flags = ("--max_epoch", "1", "--splits", "val", "--task", "v2v", "--ckpt_freq", "1")
    folder = train("run", *flags)
    snapshot = folder / "checkpoints/checkpoint_000.pth"
    snapshot.unlink()
    process = subprocess.Popen(["true"])
    process.wait()
    leftover = folder / f".results_val.json.{os.uname().nodename}.{process.pid}.tmp"
    leftover.touch()
    train("run", *flags)
    assert snapshot.read_bytes() == (folder / "checkpoint.pth").read_bytes() and not leftover.exists()


def test_best_score_of_another_metric_is_ignored(train):
    flags = ("--splits", "val", "--task", "v2v", "--eval_freq", "1", "--best_metric")
    folder = train("run", "--max_epoch", "1", *flags, "F1")
    assert "checkpoint_best.pth: best so far: F1" in (folder / "train.log").read_text()
    (folder / "checkpoint_best.pth").unlink()
    train("run", "--max_epoch", "1", *flags, "Spearman")
    assert "checkpoint_best.pth: best so far: Spearman" in (folder / "train.log").read_text()


def test_missing_vt_clip_is_logged_before_training(train, caplog):
    folder = train("run", "--max_epoch", "1", "--splits", "val", "--pretrained_clip", "none.pth")
    assert "VT_CLIPScore" not in read_metrics(folder, "val")
    messages = (folder / "train.log").read_text()
    omitted = "VT_CLIPScore and Cross-F_CLIP are omitted: pretrained_clip: no file 'none.pth'"
    assert messages.index(omitted) < messages.index("epoch 1: ")


def test_error_of_an_unsuitable_checkpoint_names_its_task(train, mini_flags, tmp_path):
    folder = train("run", "--max_epoch", "1", "--splits", "val", "--task", "v2v")
    argv = ["--config", str(ROOT / "configs/mini.yaml"), *mini_flags, "--output_dir", "eval", "--splits", "val"]
    message = r"does not fit the model; task: the checkpoint was trained with 'v2v', .*; missing: text_decoder.* more$"
    with pytest.raises(ValueError, match=message):
        eval_v2vt_sum.main([*argv, "--pretrained_model", str(folder / "checkpoint.pth")])
    with pytest.raises(ValueError, match=message):
        train("other", "--max_epoch", "1", "--splits", "val", "--pretrained_model", str(folder / "checkpoint.pth"))


def test_non_finite_loss_stops_the_run(train, mini_root, tmp_path):
    broken = shutil.copytree(mini_root / "feat/blip", tmp_path / "blip")
    for path in broken.glob("mini_train_*.npz"):
        np.savez(path, features=np.full_like(np.load(path)["features"], 1e38))
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 0: not finite: loss nan.*videos: mini_train_"):
        train("run", "--max_epoch", "1", "--video_embeddings_root", str(broken))
    assert not (tmp_path / "run/checkpoint.pth").exists()


def test_evaluation_inputs_are_checked_before_training(train, mini_root, tmp_path):
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
def test_usage_errors_are_one_line_with_status_2(clone, flags, line):
    status, output = run(["python", "eval_v2vt_sum.py", "--config", "configs/vtsum_blip_tt.yaml", *flags], clone)
    assert (status, output.strip()) == (2, line)


@pytest.mark.parametrize("num_workers", ["0", "1"])
def test_invalid_feature_files_are_one_line_with_status_2(clone, mini_flags, tmp_path, num_workers):
    """Errors in the data loader's workers are reported in the same way."""
    blip = shutil.copytree(clone / "dataset/ActivityNet/feat/blip", tmp_path / "blip")
    np.savez(blip / "mini_train_003.npz", features=np.ones((4, 700), np.float32))
    argv = ["python", "train_v2vt_sum.py", "--config", "configs/mini.yaml", *mini_flags, "--batch_size", "33"]
    argv += ["--video_embeddings_root", str(blip), "--output_dir", str(tmp_path / "out"), "--num_workers", num_workers]
    status, output = run(argv, clone)
    path = blip / "mini_train_003.npz"
    assert status == 2
    assert (
        output.strip().splitlines()[-1]
        == f"error: {path}: video mini_train_003: features: found shape (4, 700), expected (frames, 768)"
    )
    assert "Traceback" not in output


def test_torchscript_as_pretrained_clip_is_refused_until_it_is_converted(
    mini_flags, mini_root, mini_model, tmp_path, monkeypatch, capsys
):
    """OpenAI's file of CLIP worked in the published code; here, the error names the command that converts it."""
    monkeypatch.chdir(tmp_path)
    torch.save(dict(model=mini_model().state_dict()), "model.pth")
    argv = ["--config", str(ROOT / "configs/mini.yaml"), *mini_flags, "--splits", "val", "--pretrained_model"]
    argv += ["model.pth", "--pretrained_clip"]
    state = torch.load(mini_root / "vt_clip.pth", weights_only=True)["model"]
    write_torchscript("ViT B-16.pt", state)
    with pytest.raises(ValueError) as caught:
        eval_v2vt_sum.main([*argv, "ViT B-16.pt", "--output_dir", "refused"])
    message = str(caught.value)
    assert message.startswith("ViT B-16.pt: checkpoint: found a TorchScript archive, which") and "\n" not in message
    assert message.endswith(" and name OUT.safetensors instead")
    command = shlex.split(re.search(r"`(python -m models\.weights convert .*)`", message)[1])
    convert_weights(command[3:])
    capsys.readouterr()
    eval_v2vt_sum.main([*argv, "OUT.safetensors", "--output_dir", "converted"])
    eval_v2vt_sum.main([*argv, str(mini_root / "vt_clip.pth"), "--output_dir", "original"])
    scores = [
        [json.loads(line)["vt_clip_score"] for line in (tmp_path / name / "predictions_val.jsonl").open()]
        for name in ("converted", "original")
    ]
    assert scores[0] == scores[1] and len(scores[0]) == 3 and None not in scores[0]
    converted, original = load_vt_clip("OUT.safetensors"), load_vt_clip(mini_root / "vt_clip.pth")
    size = original.image_size
    images, texts = torch.randn(2, 3, size, size), ["a dog", "a man runs " * 40]
    with torch.no_grad():
        assert torch.equal(converted.encode_image(images), original.encode_image(images))
        assert torch.equal(converted.encode_text(texts), original.encode_text(texts))


def test_evaluation_scores_the_given_checkpoint(mini_flags, tmp_path, monkeypatch, mini_root):
    """`eval_v2vt_sum.py` scores --pretrained_model and ignores other checkpoints in the output folder."""
    monkeypatch.chdir(tmp_path)
    argv = ["--config", str(ROOT / "configs/mini.yaml"), *mini_flags, "--output_dir", "out", "--splits", "val"]
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = v2vt_sum(
            "vtsum_blip_tt_ca",
            med_config=str(ROOT / "configs/med_config_mini.json"),
            tokenizer=str(mini_root / "tokenizer"),
        )
        torch.save(dict(model=model.state_dict()), f"{seed}.pth")
        eval_v2vt_sum.main([*argv, "--pretrained_model", f"{seed}.pth"])
        results.append(json.loads(pathlib.Path("out/results_val.json").read_text()))
    shutil.copy("0.pth", "out/checkpoint.pth")
    eval_v2vt_sum.main([*argv, "--pretrained_model", "1.pth"])
    last = json.loads(pathlib.Path("out/results_val.json").read_text())
    assert last["metrics"] == results[1]["metrics"] != results[0]["metrics"]
    assert last["checkpoint_sha256"] == results[1]["checkpoint_sha256"] != results[0]["checkpoint_sha256"]
    assert last["config"]["pretrained_model"] == "1.pth" and last["versions"]["torch"] == torch.__version__
    load_weights(model, "0.pth")


def test_longer_run_continues_in_the_folder_that_the_error_names(train, tmp_path):
    """`max_epoch` raised after the end: the flags of the error, added to the command, train the remaining epochs."""
    flags = ("--splits", "val", "--task", "v2v")
    train("run", "--max_epoch", "1", *flags)
    with pytest.raises(ValueError, match=r"max_epoch \(was 1, is 2\); expected the same; to continue") as caught:
        train("run", "--max_epoch", "2", *flags)
    proposed = re.search(r"add to the command: (.*)$", str(caught.value))[1]
    assert proposed == "--output_dir run_continued --resume run/checkpoint.pth"
    train("run", "--max_epoch", "2", *flags, *shlex.split(proposed))
    log = [json.loads(line) for line in (tmp_path / "run_continued/log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in log if entry["type"] == "epoch"] == [1]
    assert read_metrics(tmp_path / "run_continued", "val")


def test_resuming_a_finished_run_evaluates_it(train):
    first = train("first", "--max_epoch", "1", "--splits", "val", "--task", "v2v")
    resumed = train("again", "--max_epoch", "1", "--splits", "val", "--task", "v2v", "--resume", "first/checkpoint.pth")
    assert read_metrics(first, "val") == read_metrics(resumed, "val")
    assert not (resumed / "checkpoint.pth").exists()
    log = (resumed / "train.log").read_text()
    assert log.count("first/checkpoint.pth: all 1 epochs are done\n") == 1 and "resumed at" not in log


def test_evaluation_with_other_settings_than_training_warns(train):
    folder = train("run", "--max_epoch", "1", "--splits", "val", "--task", "v2v")
    train("run", "--evaluate", "--splits", "val", "--task", "v2v", "--kernel_size", "9")
    assert "kernel_size: the checkpoint was trained with 5, this run has 9" in (folder / "eval.log").read_text()


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        (
            train_v2vt_sum,
            [],
            r"large.pth: pretrained: no such file; start from scratch with --pretrained '', or run python -m "
            r"data.download --what weights$",
        ),
        (
            train_v2vt_sum,
            ["--pretrained_model", "outputs/vtsum_tt/vtsum_tt.pth"],
            r"vtsum_tt.pth: pretrained_model: no such file; run python -m data.download --what weights$",
        ),
        (
            train_v2vt_sum,
            ["--pretrained", ""],
            "train_videoxum.json: annotations: no such file; run python -m data.download",
        ),
        (
            eval_v2vt_sum,
            ["--pretrained_model", "x.pth"],
            "val_videoxum.json: annotations: no such file; run python -m data",
        ),
    ],
)
def test_missing_data_errors_name_the_remedy(script, flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=message):
        script.main(["--config", str(ROOT / "configs/vtsum_blip_tt_ca.yaml"), *flags])
    assert not list(tmp_path.iterdir())
