"""Faults injected into evaluations, launchers and groups of processes; resumed runs must equal uninterrupted ones."""

import json
import os
import pathlib
import platform
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.helpers.harness import assert_same_run, count_steps
from tests.helpers.processes import LAUNCHER, start

VISUAL = ("--task", "v2v")  # without captions, which need Java


def test_interrupted_evaluation_is_repeated(launch_run):
    """An interrupted evaluation writes no results; the same command then gives the same scores."""
    flags = ("--max_epoch", "1", "--splits", "train", "--task", "v2v")
    run = launch_run(*flags)
    assert run.wait() == [0], run.output()
    results = run.folder / "run/results_train.json"
    expected = json.loads(results.read_text())["metrics"]
    results.unlink()
    run = launch_run(*flags, "--evaluate", "--batch_size", "1", "--num_workers", "1", prepare=slow_down_batches)
    run.wait_until(lambda: "loss" not in run.output() and "are omitted: " in run.output())
    run.signal(signal.SIGTERM)
    assert run.wait() == [75], run.output()
    assert run.output().splitlines()[-1] == "stopped by SIGTERM; the same command repeats the evaluation"
    assert not results.exists() and not list((run.folder / "run").glob(".*"))
    run = launch_run(*flags, "--evaluate")
    assert run.wait() == [0], run.output()
    assert json.loads(results.read_text())["metrics"] == expected


def slow_down_batches():
    """Delay each batch of an evaluation, so that it can be interrupted."""
    from engine import inference

    predict = inference._predict_batch
    inference._predict_batch = lambda *args: (time.sleep(0.2), predict(*args))[1]


def slow_down_close():
    """Delay the closing of the first process's log, as a tracker's upload does."""
    from utils.log import JsonlLogger

    close = JsonlLogger.close
    JsonlLogger.close = lambda log: (log.file and time.sleep(50), close(log))[1]


@pytest.mark.soak
def test_first_process_closes_slowly(launch_run):
    """The other processes wait for it, and all exit with status 0."""
    run = launch_run(*VISUAL, "--max_epoch", "1", size=2, prepare=slow_down_close)
    assert run.wait() == [0, 0], run.output()


def start_launcher(training_argv, tmp_path, *flags, training_flags=()):
    """Start a run on two processes under torch's launcher."""
    script = [ROOT / "train_v2vt_sum.py", *training_argv(*training_flags, size=2)]
    argv = [*LAUNCHER, "--nproc_per_node=2", *flags, *script]
    return start(argv, cwd=tmp_path, stdout=open(tmp_path / "output.txt", "w"))


def find_worker(launcher, rank):
    """Find the process id of a launcher's worker by its rank; None if it is not running."""
    for pid in subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True).stdout.split():
        with open(f"/proc/{pid}/environ", "rb") as file:
            if f"RANK={rank}".encode() in file.read().split(b"\0"):
                return int(pid)
    return None


def test_launcher_restarts_a_killed_rank(training_argv, reference_run, tmp_path):
    launcher = start_launcher(
        training_argv, tmp_path, "--max_restarts=1", training_flags=(*VISUAL, "--ckpt_steps", "1")
    )
    while count_steps(tmp_path / "run") < 4:
        assert launcher.poll() is None, (tmp_path / "output.txt").read_text()
        time.sleep(0.01)
    os.kill(find_worker(launcher, 1), signal.SIGKILL)
    assert launcher.wait(timeout=240) == 0, (tmp_path / "output.txt").read_text()
    assert_same_run(tmp_path / "run", reference_run(2, *VISUAL))


def test_ctrl_c_under_the_launcher(training_argv, reference_run, tmp_path):
    """SIGINT to all processes, as a terminal sends it: one line of ours, status 1 of the launcher; it resumes."""
    launcher = start_launcher(training_argv, tmp_path, training_flags=VISUAL)
    while count_steps(tmp_path / "run") < 3:
        assert launcher.poll() is None, (tmp_path / "output.txt").read_text()
        time.sleep(0.01)
    os.killpg(launcher.pid, signal.SIGINT)
    assert launcher.wait(timeout=120) == 1
    output = (tmp_path / "output.txt").read_text()
    line = "stopped by SIGINT; the same command resumes from here"
    assert output.splitlines().count(line) == 1 and output.count("stopped by") == 1, output
    assert (tmp_path / "run/train.log").read_text().splitlines()[-1].endswith(line)
    launcher = start_launcher(training_argv, tmp_path, training_flags=VISUAL)
    assert launcher.wait(timeout=120) == 0, (tmp_path / "output.txt").read_text()
    assert_same_run(tmp_path / "run", reference_run(2, *VISUAL))


def test_rank_fails_repeatedly(training_argv, mini_root, tmp_path):
    """All processes exit within a minute, and the launcher's report shows the error of the failed rank."""
    broken = shutil.copytree(mini_root / "feat/blip", tmp_path / "blip")
    for path in broken.glob("mini_train_*.npz"):
        np.savez(path, features=np.ones((4, 700), np.float32))
    start_time = time.monotonic()
    launcher = start_launcher(training_argv, tmp_path, training_flags=("--video_embeddings_root", str(broken)))
    assert launcher.wait(timeout=90) == 1
    assert time.monotonic() - start_time < 60
    output = (tmp_path / "output.txt").read_text()
    report = output[output.index("Root Cause") :]
    assert "found shape (4, 700), expected (frames, 768)" in report


def test_processes_exit_if_one_is_killed(launch_run):
    """Without a launcher, the other processes exit because gloo's connections break."""
    run = launch_run("--max_epoch", "50", size=2)
    run.wait_until(lambda: count_steps(run.folder / "run") >= 2)
    run.signal(signal.SIGKILL, ranks=[0])
    assert run.wait(timeout=60) == [-9, 2]
    assert "error: another process of this run, or a collective, failed (" in run.output()
    assert "Traceback" not in run.output()


@pytest.mark.soak
def test_an_evaluation_on_two_processes_is_interrupted(launch_run):
    flags = ("--max_epoch", "1", "--splits", "train", "val", "--task", "v2v")
    assert launch_run(*flags, "--splits", "val", size=2).wait() == [0, 0]
    run = launch_run(*flags, "--evaluate", size=2, prepare=slow_down_batches)
    run.wait_until(lambda: "are omitted: " in run.output())
    run.signal(signal.SIGTERM, ranks=[1])
    assert run.wait() == [75, 75], run.output()
    run = launch_run(*flags, "--evaluate", size=2)
    assert run.wait() == [0, 0], run.output()


def enter_node():
    """Simulate a node without a shared file system: a name and a working directory of its own."""
    node = f"node{os.environ['RANK']}"
    os.chdir(node)
    platform.node = lambda: node


@pytest.mark.parametrize(
    ("setting", "rank", "kind"),
    [("clip_root", 0, "folder"), ("clip_root", 1, "folder"), ("pretrained_clip", 1, "file")],
)
def test_files_that_one_node_lacks(launch_run, mini_root, tmp_path, setting, rank, kind):
    """All processes of both nodes end with the error, before training."""
    for node in range(2):
        (tmp_path / f"launch/node{node}").mkdir(parents=True)
    sources = dict(clip_root=mini_root / "feat/vt_clipscore", pretrained_clip=mini_root / "vt_clip.pth")
    (tmp_path / f"launch/node{rank}/clip").symlink_to(sources[setting])
    flags = [word for name, path in (sources | {setting: "clip"}).items() for word in (f"--{name}", path)]
    run = launch_run(*flags, size=2, prepare=enter_node)
    assert run.wait() == [2, 2], run.output()
    states = [f"a {kind}" if node == rank else f"no such {kind}" for node in range(2)]
    line = f"error: clip: {setting}: found {states[1]} on node node1 (process 1), expected {states[0]} as on node node0"
    assert run.output().count(f"{line} (process 0); copy the {kind} to all nodes, or set {setting} to '' for") == 2
    assert not list(tmp_path.glob("launch/node*/run/log.jsonl"))


def test_second_run_in_a_folder_is_refused(launch_run, reference_run):
    first = launch_run(*VISUAL)
    first.wait_until(lambda: count_steps(first.folder / "run") >= 2)
    second = launch_run(*VISUAL)
    assert second.wait() == [2]
    assert "error: run/train.log: output_dir is locked by another run" in second.output()
    assert first.wait() == [0], first.output()
    assert_same_run(first.folder / "run", reference_run(1, *VISUAL))


def test_loader_worker_is_killed(launch_run):
    """SIGKILL, as sent by the kernel's out-of-memory killer."""
    run = launch_run(*VISUAL, "--num_workers", "1", "--max_epoch", "50")
    run.wait_until(lambda: count_steps(run.folder / "run") >= 1)
    parent = run.processes[0].pid
    children = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    assert run.wait() == [2], run.output()
    assert re.search(r"^error: DataLoader worker \(pid.*\) (is killed|exited)", run.output(), re.M), run.output()
    assert "Traceback" not in run.output()
