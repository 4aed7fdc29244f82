"""Scoring in a separate process, and when that process ends."""

import logging
import multiprocessing
import os
import pathlib
import signal
import subprocess
import time

import pytest

from data.annotations import Subset
from data.features import open_features
from data.registry import load_annotations
from engine.predictions import Prediction
from engine.scoring_process import ScoringJob, ScoringProcess, score_split
from tests.conftest import ROOT
from tests.helpers.processes import start
from tests.helpers.scoring_parent import start_and_exit

FILES = ["evaluate_val.txt", "predictions_val.jsonl", "results_val.json", "scores_val.jsonl"]
FILES += ["result/gt_val.json", "result/val.json"]


@pytest.fixture(scope="module")
def scoring():
    """A scoring process for several tests: none of them ends it."""
    scoring = ScoringProcess()
    yield scoring
    scoring.kill()


@pytest.fixture
def make_job(mini_root, tmp_path):
    """Return a function that makes a job for perfect predictions of mini VideoXum's val split."""
    records = load_annotations(mini_root / "anno/val_videoxum.json")
    video_ids = [record.video_id for record in records]
    features = open_features(mini_root / "feat/vt_clipscore", video_ids, "vision", None, "VT-CLIP features")

    def make(folder="out", **changes):
        predictions = [
            Prediction(
                video_id=record.video_id,
                caption=record.captions()[0],
                saliency=record.vsum_onehot.mean(0).tolist(),
                f_clip=0.5,
            )
            for record in records
        ]
        (tmp_path / folder).mkdir(exist_ok=True)
        job = dict(
            output_dir=folder,
            split="val",
            predictions=predictions,
            records=records,
            baselines={},
            subset=None,
            also_subset=Subset("first.txt", frozenset(video_ids[:1])),
            frame_features=features.load,
            captions_left_out="not scored here",
            origin=dict(processes=3),
        )
        return ScoringJob(**(job | changes))

    return make


def wait_for_result(scoring):
    """Poll until a job is scored."""
    while not (scored := scoring.poll()):
        assert scoring.is_busy
        time.sleep(0.01)
    (result,) = scored
    return result


def is_running(pid):
    try:
        return "State:\tZ" not in pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_for_end(pid, timeout=20):
    deadline = time.monotonic() + timeout
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} is still running"
        time.sleep(0.01)


def test_results_equal_those_in_this_process(scoring, make_job, mini_root, tmp_path, monkeypatch):
    """Relative paths are those of the caller's working directory, and messages arrive in the caller's log."""
    monkeypatch.chdir(tmp_path)
    constant = [Prediction(video_id=p.video_id, saliency=[0.5] * len(p.saliency)) for p in make_job().predictions]
    for name, changes in (("plain", {}), ("constant", dict(predictions=constant))):
        scoring.submit(make_job(f"{name} process", **changes))
        assert scoring.is_busy
        actual = wait_for_result(scoring)
        assert not scoring.is_busy and not scoring.poll()
        expected = score_split(make_job(f"{name} here", **changes))
        assert (actual.split, actual.results, actual.baselines) == ("val", expected.results, expected.baselines)
        assert "F1" in actual.results["metrics"] and actual.results["processes"] == 3
        assert actual.baselines.keys() == {"val", "val first"}
        messages = [(record.levelno, record.name, record.getMessage()) for record in actual.log_records]
        assert messages == [(record.levelno, record.name, record.getMessage()) for record in expected.log_records]
        for file in FILES if name == "plain" else FILES[:4]:
            assert (tmp_path / f"{name} process" / file).read_bytes() == (tmp_path / f"{name} here" / file).read_bytes()
    assert messages[0][0] == logging.WARNING and "found equal values" in messages[0][2]


def test_known_baselines_are_reused(scoring, make_job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scoring.submit(make_job(also_subset=None, baselines=dict(val=dict(random=dict(F1=9.0, F_CLIP=8.0)))))
    baselines = wait_for_result(scoring).baselines["val"]
    assert baselines["random"] == dict(F1=9.0, F_CLIP=8.0) and 0 < baselines["middle"]["F1"] < 1


def test_errors_of_a_job_are_raised_by_poll(scoring, make_job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = make_job()
    scoring.submit(make_job(predictions=[*job.predictions, Prediction(video_id="x", caption="", saliency=[1.0])]))
    with pytest.raises(ValueError) as caught:
        wait_for_result(scoring)
    assert str(caught.value) == "predictions: video x: not in the annotations"
    assert "score_split" in caught.value.__notes__[0]  # the traceback in the scoring process
    (tmp_path / "file").touch()
    scoring.submit(make_job(output_dir="file"))
    with pytest.raises(OSError, match="file"):
        wait_for_result(scoring)
    scoring.submit(job)
    assert wait_for_result(scoring).results["num_videos"]["scored"] == len(job.records)


def test_signals_from_elsewhere_are_ignored(scoring, make_job, tmp_path, monkeypatch):
    """Schedulers and terminals send them to all processes of a run."""
    monkeypatch.chdir(tmp_path)
    scoring.submit(make_job())
    wait_for_result(scoring)  # it has started
    pid = scoring._process.pid
    for name in ("TERM", "INT", "USR1"):
        subprocess.run(["kill", f"-{name}", str(pid)], check=True)
    scoring.submit(make_job())
    assert wait_for_result(scoring).results["metrics"] and scoring._process.pid == pid


def test_killed_process_is_an_error(make_job, tmp_path, monkeypatch):
    """SIGKILL, as sent by the kernel's out-of-memory killer."""
    monkeypatch.chdir(tmp_path)
    scoring = ScoringProcess()
    scoring.submit(make_job())
    os.kill(scoring._process.pid, signal.SIGKILL)
    with pytest.raises(OSError, match=r"^scoring: its process was killed, perhaps .*; score .* by python -m metrics$"):
        wait_for_result(scoring)


def list_children(pid):
    """List a process's child processes: id -> command."""
    children = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    pids = [int(child) for path in children for child in path.read_text().split()]
    return {child: pathlib.Path(f"/proc/{child}/cmdline").read_text() for child in pids}


def test_meteor_is_started_once(make_job, tmp_path, monkeypatch):
    """It ends with the scoring process."""
    monkeypatch.chdir(tmp_path)
    scoring = ScoringProcess()
    try:
        scoring.start_meteor()
        children = []
        for split in ("val", "test"):
            scoring.submit(make_job(split=split, captions_left_out=None, also_subset=None))
            assert wait_for_result(scoring).results["metrics"]["METEOR"] == pytest.approx(1, abs=0.01)
            children.append(list_children(scoring._process.pid))
        assert children[0] == children[1] and len(children[0]) == 1
        ((java, command),) = children[0].items()
        assert "meteor" in command
    finally:
        scoring.kill()
    wait_for_end(java)


@pytest.mark.parametrize("is_killed", [False, True])
def test_it_ends_with_a_parent_that_is_a_child_of_multiprocessing(is_killed):
    context = multiprocessing.get_context("forkserver")
    connection, other = context.Pipe()
    parent = context.Process(target=start_and_exit, args=(other, is_killed))
    parent.start()
    pid = connection.recv()
    assert is_running(pid)
    connection.send("end")
    parent.join(20)
    assert parent.exitcode == (-signal.SIGKILL if is_killed else 0)
    wait_for_end(pid)


@pytest.mark.parametrize("is_killed", [False, True])
def test_it_ends_with_its_parent(is_killed):
    program = (
        "from engine.scoring_process import scoring_process as s; assert s() is s(); "
        "print(s()._process.pid, flush=True); input()"
    )
    with start(["python", "-c", program], ROOT, stdin=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        assert is_running(pid)
        parent.kill() if is_killed else parent.communicate("\n", timeout=20)
    assert parent.returncode == (-signal.SIGKILL if is_killed else 0)
    wait_for_end(pid)
