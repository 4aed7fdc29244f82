import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from data.registry import load_annotations
from engine.config import Config
from metrics.registry import PAPER_METRICS
from report import reproduce, reproduction, reproduction_steps
from report.runs import PUBLISHED
from tests.conftest import ROOT
from tests.helpers.hub_files import DATASET_REPOSITORY, WEIGHTS_REPOSITORY, serve_dataset, serve_weights
from utils import interrupt
from utils.files import compute_sha256
from utils.interrupt import Interrupted
from utils.log import run_main

TT, TT_CA = PUBLISHED


@pytest.fixture
def hub(hub, mini_root, mini_model, tmp_path, monkeypatch):
    """Hub with mini VideoXum and small released weights; the working directory is an empty folder."""
    serve_dataset(hub, mini_root, tmp_path, monkeypatch)
    serve_weights(hub, mini_root, mini_model, tmp_path)
    (tmp_path / "clone").mkdir()
    monkeypatch.chdir(tmp_path / "clone")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return hub


@pytest.fixture
def small_flags(mini_root):
    """Flags of the small model, for the commands that are run."""
    med_config = str(ROOT / "configs/med_config_mini.json")
    return ["--tokenizer", str(mini_root / "tokenizer"), "--med_config", med_config, "--num_workers", "0"]


def read_json(path):
    return json.loads(pathlib.Path(path).read_text())


def expect_other_inputs_to_be_noticed(extra_flags):
    """Results are not kept for other videos, settings or annotations, or another checkpoint."""
    root = pathlib.Path("dataset/ActivityNet")
    args = argparse.Namespace(out=pathlib.Path("reproduction"), root=root, device="cpu", subset="", train=False)
    args.extra_flags = extra_flags
    step = reproduce.build_evaluation("tt", args)
    inputs = step.read_record().inputs
    assert step.read_results(inputs) is not None and step.read_results(inputs | dict(settings={})) is None
    assert set(inputs["sha256"]) == {"test", "blip_feat", "vt_clip_feat", "weights 0", "weights 1", "videos"}
    for name in inputs["sha256"]:
        assert step.read_results(inputs | dict(sha256=inputs["sha256"] | {name: "0" * 64})) is None
    os.truncate(step.checkpoint, 1000)
    assert step.read_results(inputs) is None


def test_reproduces_from_an_empty_folder(hub, small_flags, mini_root, capfd):
    """Data and weights come from the hub; a second call makes neither a request nor an evaluation."""
    argv = ["--device", "cpu", "--", *small_flags, "--min_text_length", "6"]
    reproduce.main(argv)
    output, messages = capfd.readouterr()
    assert output.endswith("reproduction/reproduction.md: 2 models\n") and len(hub.sent) == 5 + 3
    assert "outputs/vtsum_tt/vtsum_tt.pth: downloading hf://jylins/vtsum_blip/vtsum_tt.pth (" in messages
    assert "reproduction/tt: evaluating 7 videos on the CPU; an interrupted evaluation starts again" in messages
    document = read_json("reproduction/reproduction.json")
    text = pathlib.Path("reproduction/reproduction.md").read_text()
    assert document["weights"] == "released" and "The weights are the released ones." in text and "{" not in text
    for name, folder in ((TT, "tt"), (TT_CA, "tt_ca")):
        results, model = read_json(f"reproduction/{folder}/results_test.json"), document["models"][name]
        weights = f"outputs/vtsum_{folder}/vtsum_{folder}.pth"
        assert model["checkpoint_sha256"] == compute_sha256(weights) and compute_sha256(weights) in text
        assert model["baselines"] == results["baselines"] and {"random", "uniform", "human"} <= set(
            results["baselines"]
        )
        assert model["num_videos"] == dict(expected=7, scored=7) and model["evaluation_seconds"] > 0
        assert results["config"]["min_text_length"] == 6 and model["versions"] == results["versions"]
        assert set(model["scores"]) == {*PAPER_METRICS, "F1_published"}
        for metric, row in model["scores"].items():
            published = PUBLISHED[name]["F1" if metric == "F1_published" else metric]
            difference = results["metrics"][metric] - published
            assert row["published"] == published and row["measured"] == results["metrics"][metric]
            assert row["difference"] == difference and row["within_tolerance"] == (abs(difference) <= 0.001)
    f1 = document["models"][TT_CA]["scores"]["F1"]
    row = rf"\| F1 +\| +23\.5 \| +{100 * f1['measured']:.2f} \| +{100 * f1['difference']:+.2f} \| +(not )?within \|"
    assert re.search(row, text) and re.search(r"^\| uniform +\| +\d", text, re.M)
    hashes = {pathlib.Path(file["path"]).name: file["sha256"] for file in document["files"]}
    assert hashes["test_videoxum.json"] == compute_sha256(mini_root / "anno/test_videoxum.json")
    program = "LC_ALL=C sha256sum -- * | sha256sum"  # as the document says
    done = subprocess.run(program, shell=True, cwd=mini_root / "feat/blip", capture_output=True, text=True, check=True)
    assert hashes["blip"] == done.stdout.split()[0] and len(hashes) == 3 + 2 + 3

    request_count, seconds = hub.request_count, document["models"][TT]["evaluation_seconds"]
    written = os.stat("reproduction/tt/results_test.json").st_mtime_ns
    reproduce.main(argv)
    assert hub.request_count == request_count and "eval_v2vt_sum.py" not in capfd.readouterr().err
    assert os.stat("reproduction/tt/results_test.json").st_mtime_ns == written
    assert read_json("reproduction/reproduction.json")["models"][TT]["evaluation_seconds"] == seconds
    expect_other_inputs_to_be_noticed(argv[3:])


def test_subset_has_no_verdict(hub, small_flags, monkeypatch, capfd):
    """On the CPU, the time is estimated first; here from two of the five videos."""
    monkeypatch.setattr(reproduction_steps, "NUM_TIMED_VIDEOS", 2)
    subset = pathlib.Path("ids.txt")
    subset.write_text("".join(f"mini_test_{n:03}\n" for n in range(5)))
    argv = ["--what", "tt", "--subset", "ids.txt", "--device", "cpu", "--out", "parts", "--", *small_flags]
    argv += ["--task", "v2v"]
    reproduce.main(argv)
    messages = capfd.readouterr().err
    assert re.search(r"parts/tt: about \d+:\d\d .*, estimated from a part of the videos", messages)
    assert messages.count("eval_v2vt_sum.py --config") == 3 and not pathlib.Path("parts/tt/timing").exists()
    document, text = read_json("parts/reproduction.json"), pathlib.Path("parts/reproduction.md").read_text()
    assert document["subset"]["num_videos"] == 5 and document["f1_definition"] is None
    assert "of a subset, 5 videos of `ids.txt`" in text and "within" not in text
    scores = document["models"][TT]["scores"]
    assert {row["within_tolerance"] for row in scores.values()} == {None} and "not measured" in text
    assert {metric for metric, row in scores.items() if row["measured"] is None} == set(PAPER_METRICS[3:])


def test_training(hub, small_flags, monkeypatch, capfd):
    """The time is projected from one batch; a second call repeats neither training nor evaluation."""
    monkeypatch.setattr(reproduction_steps, "NUM_TIMED_BATCHES", 1)
    argv = ["--what", "tt", "--train", "--device", "cpu", "--", *small_flags, "--pretrained", "", "--max_epoch", "2"]
    argv += ["--batch_size", "11", "--accumulate", "1", "--task", "v2v"]
    reproduce.main(argv)
    messages = capfd.readouterr().err
    assert re.search(r"tt/train: 2 epochs on the CPU, without evaluation: about \d+:\d\d ", messages)
    assert len(hub.sent) == 5 + 1, "VT-CLIP, and no released checkpoint"
    out = pathlib.Path("reproduction_trained")
    document, text = read_json(out / "reproduction.json"), (out / "reproduction.md").read_text()
    assert document["weights"] == "trained" and "They are not the released weights." in text
    assert document["models"][TT]["training_seconds"] > 0 and not (out / "tt/train/timing").exists()
    assert document["models"][TT]["checkpoint_sha256"] == compute_sha256(out / "tt/train/checkpoint.pth")
    settings = read_json(out / "tt/results_test.json")
    assert settings["config"]["model"] == "vtsum_blip_tt" and settings["trained_with"]["model"] == "vtsum_blip_tt_ca"
    assert settings["trained_with"]["lambda_vsum"] == 10 and settings["trained_with"]["max_epoch"] == 2
    reproduce.main(argv)
    assert "_v2vt_sum.py --config" not in capfd.readouterr().err


def expect_error(argv, capfd, pattern):
    """Run the command, and expect one line and status 2."""
    capfd.readouterr()
    with pytest.raises(SystemExit, match="2"):
        run_main(lambda: reproduce.main(argv))
    lines = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1 and re.fullmatch(f"error: {pattern}", lines[0]), lines


def test_wrong_missing_and_truncated_files_are_named(hub, small_flags, mini_root, capfd):
    argv = ["--what", "tt", "--device", "cpu", "--", *small_flags]
    archive, checkpoint = (DATASET_REPOSITORY, "blip_feat.zip"), (WEIGHTS_REPOSITORY, "vtsum_tt.pth")
    complete = hub.files.copy()
    hub.files[archive] = complete[archive][:-1000]
    expect_error(argv, capfd, r"\S+/blip_feat.zip: damaged or not a zip archive .*")
    shutil.rmtree(os.path.join(os.path.dirname(os.getcwd()), "hf"))
    hub.files[archive] = complete[archive]
    del hub.files[checkpoint]
    expect_error(argv, capfd, "hf://jylins/vtsum_blip/vtsum_tt.pth: found no such file in jylins/vtsum_blip")
    hub.files[checkpoint] = complete[checkpoint]

    annotations = pathlib.Path("dataset/ActivityNet/anno/test_videoxum.json")
    annotations.write_text(json.dumps(read_json(mini_root / "anno/test_videoxum.json")[1:]))
    expect_error(argv, capfd, f"{annotations}: found a file that differs from the hub's, expected none: .*")
    annotations.write_text("[{")
    expect_error(argv, capfd, f"{annotations}: annotations: not valid JSON .*")
    annotations.unlink()
    features = pathlib.Path("dataset/ActivityNet/feat/blip/mini_val_001.npz")
    os.truncate(features, 1000)
    hub.files[archive] = complete[DATASET_REPOSITORY, "vt_clip_feat.zip"]
    shutil.rmtree(os.path.join(os.path.dirname(os.getcwd()), "hf"))
    expect_error(argv, capfd, r"\S+mini_\w+.npz: .*features.*")
    hub.files.update(complete)
    shutil.rmtree("dataset")
    shutil.rmtree(os.path.join(os.path.dirname(os.getcwd()), "hf"))

    weights = pathlib.Path("outputs/vtsum_tt/vtsum_tt.pth")
    weights.parent.mkdir(parents=True)
    weights.write_bytes(complete[checkpoint][:100_000])
    expect_error(argv, capfd, f"{weights}: .*")  # of the evaluation
    weights.unlink()
    (weights.parent / f"{weights.name}.sha256").write_text(f"{'0' * 64}  {weights.name}\n")
    expect_error(argv, capfd, r"\S+/vtsum_tt.pth: found SHA-256 \w+, expected 0+ of the first download.*")
    weights.write_bytes(complete[checkpoint][:-1])
    expect_error(argv, capfd, f"{weights}: found SHA-256 .*; remove the first file if it is damaged, or .*")
    assert not pathlib.Path("reproduction/reproduction.md").exists()


def test_wrong_flags_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for argv, message in (
        (["--", "--splits", "val"], "--splits: found after --, expected other flags"),
        (["--", "--num_bems", "4"], "--num_bems: unknown flag; did you mean --num_beams"),
        (["--what", "vt_clip"], "argument --what: invalid choice"),
        (["--device", "gpu"], "device: found 'gpu'"),
        (["--subset", "none.txt"], "none.txt: subset: no such file"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            reproduce.main(argv)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", reproduce.MODELS)
def test_recipe_is_that_of_the_config(name):
    """The training flags are those in the head of the config; 1, 2 and 4 processes have 64 videos per step."""
    head = (ROOT / "configs" / reproduce.MODELS[name].config).read_text().split("# Published scores")[0]
    published = dict(re.findall(r"(--(?!config|output_dir|nproc)\w+) (\S+)", head))
    assert len(published) >= 7 and published["--max_epoch"] == "56"
    args = argparse.Namespace(out=ROOT, root=".", device="auto", subset="", train=True, extra_flags=[])
    step = reproduce.build_training(name, args, 4, is_on_gpu=True)
    flags = dict(zip(step.arguments[::2], step.arguments[1::2]))
    assert flags | published == flags and step.config.accumulate == 1
    for processes in (1, 2, 4, 8):
        config = reproduce.build_training(name, args, processes).config
        assert config.batch_size * config.accumulate * processes == 64 and config.batch_size <= 16


def test_tolerance_and_definition_of_f1():
    close = dict(F1=0.2229, F1_published=0.2231, Kendall=0.177, Spearman=0.2341, CIDEr=0.22)
    rows = reproduction.compare_with_published(close, TT)
    within = {metric: row["within_tolerance"] for metric, row in rows.items() if row["measured"] is not None}
    assert within == dict(F1=False, F1_published=True, Kendall=True, Spearman=False, CIDEr=False)
    assert rows["METEOR"] == dict(published=0.120, measured=None, difference=None, within_tolerance=None)

    def find(tt, tt_ca):
        runs = [
            argparse.Namespace(name=name, run=argparse.Namespace(metrics=m)) for name, m in ((TT, tt), (TT_CA, tt_ca))
        ]
        return reproduction.find_f1_definition(runs)

    assert find(close, dict(F1=0.235, F1_published=0.235)) == "F1_published"
    assert find(dict(F1=0.224, F1_published=0.224), dict(F1=0.235, F1_published=0.235)) is None
    assert find(close, dict(F1=0.235, F1_published=0.3)) is None


def test_several_gpus_are_started_by_the_launcher(tmp_path):
    step = reproduction_steps.Step("eval_v2vt_sum.py", ("--x",), Config(), tmp_path / "w.pth", "test", 4)
    words = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=4",
        os.path.relpath(ROOT / step.script),
        "--x",
    ]
    assert step.command == [sys.executable, *words]


def test_timed_videos_are_drawn_evenly(mini_root):
    records = load_annotations(mini_root / "anno/train_videoxum.json")
    lengths = sorted(record.num_frames for record in records)
    timed = [record.num_frames for record in reproduction_steps.select_evenly(records, 3)]
    assert timed == [lengths[5], lengths[16], lengths[27]]
    assert len({r.video_id for r in reproduction_steps.select_evenly(records, 100)}) == len(records)


def test_signals_are_passed_on(tmp_path):
    program = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        f"pathlib.Path({str(tmp_path / 'started')!r}).touch()\n"
        "time.sleep(60)\n"
    )

    def send():
        while not (tmp_path / "started").exists():
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(Interrupted, match="SIGTERM"):
        reproduction_steps.run_command([sys.executable, "-c", program])
    thread.join()
    with interrupt.signal_handlers():  # forget the signal, for the other tests of this process
        pass
