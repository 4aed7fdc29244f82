"""Faults done to evaluations, launchers and groups of processes; what went on is compared with what was left alone."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.faults.harness import assert_same, steps
from tests.processes import LAUNCHER, start

VISUAL = ("--task", "v2v")  # where the captions, and Java, do not matter


def test_an_interrupted_evaluation_starts_its_split_anew(begin):
    """It writes nothing of the split, and the same command gives the same numbers in the end."""
    words = ("--max_epoch", "1", "--splits", "train", "--task", "v2v")
    run = begin(*words)
    assert run.wait() == [0], run.said()
    results = run.folder / "run/results_train.json"
    whole = json.loads(results.read_text())["metrics"]
    results.unlink()
    run = begin(*words, "--evaluate", "--batch_size", "1", "--num_workers", "1", prepare=slow_batches)
    run.until(lambda: "loss" not in run.said() and "VT_CLIPScore is left out" in run.said())
    run.signal(signal.SIGTERM)
    assert run.wait() == [75], run.said()
    assert not results.exists() and not list((run.folder / "run").glob(".*"))
    run = begin(*words, "--evaluate")
    assert run.wait() == [0], run.said()
    assert json.loads(results.read_text())["metrics"] == whole


def slow_batches():
    """Let each batch of an evaluation take long enough to be interrupted."""
    from engine.evaluator import Evaluator

    predict = Evaluator._predict_batch
    Evaluator._predict_batch = lambda *args: (time.sleep(0.2), predict(*args))[1]


def slow_close():
    """Let the first process take long to close its log, as a tracker that uploads does."""
    from utils.log import JsonlLogger

    close = JsonlLogger.close
    JsonlLogger.close = lambda log: (log.file and time.sleep(50), close(log))[1]


@pytest.mark.soak
def test_a_first_process_that_closes_slowly(begin):
    """The others wait for it, and all end well."""
    run = begin(*VISUAL, "--max_epoch", "1", size=2, prepare=slow_close)
    assert run.wait() == [0, 0], run.said()


def launched(command, tmp_path, *flags, words=()):
    """A run on two processes under torch's launcher."""
    how = dict(cwd=tmp_path, stdout=open(tmp_path / "output.txt", "w"))
    names = [*LAUNCHER, "--nproc_per_node=2", *flags, ROOT / "train_v2vt_sum.py", *command(*words, size=2)]
    return start(names, **how)


def worker(launcher, rank):
    """Process id of one of a launcher's workers, None while there is none."""
    for pid in subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True).stdout.split():
        with open(f"/proc/{pid}/environ", "rb") as file:
            if f"RANK={rank}".encode() in file.read().split(b"\0"):
                return int(pid)
    return None


def test_the_launcher_restarts_a_run_whose_rank_is_killed(command, undisturbed, tmp_path):
    launcher = launched(command, tmp_path, "--max_restarts=1", words=(*VISUAL, "--ckpt_steps", "1"))
    while steps(tmp_path / "run") < 4:
        assert launcher.poll() is None, (tmp_path / "output.txt").read_text()
        time.sleep(0.01)
    os.kill(worker(launcher, 1), signal.SIGKILL)
    assert launcher.wait(timeout=240) == 0, (tmp_path / "output.txt").read_text()
    assert_same(tmp_path / "run", undisturbed(2, *VISUAL))


def test_a_rank_that_fails_for_good(command, mini_root, tmp_path):
    """All end within a minute, and the launcher's report shows that rank's own error."""
    broken = shutil.copytree(mini_root / "feat/blip", tmp_path / "blip")
    for path in broken.glob("mini_train_*.npz"):
        np.savez(path, features=np.ones((4, 700), np.float32))
    began = time.monotonic()
    launcher = launched(command, tmp_path, words=("--video_embeddings_root", str(broken)))
    assert launcher.wait(timeout=90) == 1
    assert time.monotonic() - began < 60
    shown = (tmp_path / "output.txt").read_text()
    report = shown[shown.index("Root Cause") :]
    assert "found shape (4, 700), expected (frames, 768)" in report


def test_srun_like_processes_end_when_one_is_killed(begin):
    """Without a launcher that would end the others: gloo's connections break."""
    run = begin("--max_epoch", "50", size=2)
    run.until(lambda: steps(run.folder / "run") >= 2)
    run.signal(signal.SIGKILL, ranks=[0])
    assert run.wait(timeout=60) == [-9, 2]
    assert "error: another process of this run failed, or a collective did (" in run.said()
    assert "Traceback" not in run.said()


@pytest.mark.soak
def test_an_evaluation_on_two_processes_is_interrupted(begin):
    words = ("--max_epoch", "1", "--splits", "train", "val", "--task", "v2v")
    assert begin(*words, "--splits", "val", size=2).wait() == [0, 0]
    run = begin(*words, "--evaluate", size=2, prepare=slow_batches)
    run.until(lambda: "VT_CLIPScore is left out" in run.said())
    run.signal(signal.SIGTERM, ranks=[1])
    assert run.wait() == [75, 75], run.said()
    run = begin(*words, "--evaluate", size=2)
    assert run.wait() == [0, 0], run.said()


def test_a_second_run_in_the_folder_is_refused(begin, undisturbed):
    first = begin(*VISUAL)
    first.until(lambda: steps(first.folder / "run") >= 2)
    second = begin(*VISUAL)
    assert second.wait() == [2]
    assert "error: run/train.log: output_dir is locked by another run" in second.said()
    assert first.wait() == [0], first.said()
    assert_same(first.folder / "run", undisturbed(1, *VISUAL))


def test_a_loaders_worker_is_killed(begin):
    """As the kernel does when memory is short."""
    run = begin(*VISUAL, "--num_workers", "1", "--max_epoch", "50")
    run.until(lambda: steps(run.folder / "run") >= 1)
    parent = run.processes[0].pid
    children = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    assert run.wait() == [2], run.said()
    assert re.search(r"^error: DataLoader worker \(pid.*\) (is killed|exited)", run.said(), re.M), run.said()
    assert "Traceback" not in run.said()
