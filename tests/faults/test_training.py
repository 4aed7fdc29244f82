"""Faults injected into training runs: a resumed run ends with the same bytes, or the error is one clear line."""

import functools
import os
import random
import re
import resource
import shutil
import signal
import subprocess

import numpy as np
import pytest

from models.weights import read_checkpoint
from tests.helpers.harness import assert_same_run, assert_same_training, count_steps, read_log

VISUAL = ("--task", "v2v")  # without captions, which need Java
KILLS = int(os.environ.get("VTSUM_KILLS", "5"))  # `make soak` sets more


def test_killed_at_random_moments(launch_run, reference_run):
    """SIGKILL at any time: while starting, in a step, while saving, while evaluating."""
    rng, kills = random.Random(5), 0
    task = VISUAL if KILLS == 5 else ()  # with captions, dropout and Java in `make soak`
    while kills < KILLS:
        folder = f"after {kills} kills"  # a new folder after every few kills
        for _ in range(min(KILLS - kills, 5)):
            run = launch_run(*task, "--ckpt_steps", "1", folder=folder)
            run.processes[0].join(rng.uniform(0.3, 4))
            kills += run.processes[0].is_alive()
            run.signal(signal.SIGKILL)
            assert run.wait()[0] in (0, -signal.SIGKILL), run.output()
        run = launch_run(*task, "--ckpt_steps", "1", folder=folder)
        assert run.wait() == [0], run.output()
        assert_same_run(run.folder / "run", reference_run(1, *task))


@pytest.mark.parametrize(
    ("number", "size"),
    [
        (signal.SIGTERM, 2),
        (signal.SIGUSR1, 1),
        *(
            pytest.param(number, size, marks=pytest.mark.soak)
            for number, size in ((signal.SIGINT, 2), (signal.SIGTERM, 1))
        ),
        *(
            pytest.param(number, size, marks=pytest.mark.soak)
            for number, size in ((signal.SIGUSR1, 2), (signal.SIGINT, 1))
        ),
    ],
)
def test_signal_within_an_epoch(launch_run, reference_run, size, number):
    """After a signal to one process, the step is finished and saved, with status 75; the resumed run is identical."""
    run = launch_run(*VISUAL, size=size)
    run.wait_until(lambda: count_steps(run.folder / "run") >= 5)
    run.signal(number, ranks=[size - 1])
    assert run.wait() == [75] * size, run.output()
    assert f"stopped by {number.name}; the same command resumes from here" in run.output()
    progress = read_checkpoint(run.folder / "run/checkpoint.pth")["progress"]
    assert progress["epoch"] == 0 and 5 * size <= progress["done"] < 8 * size
    run = launch_run(*VISUAL, size=size)
    assert run.wait() == [0] * size, run.output()
    assert_same_run(run.folder / "run", reference_run(size, *VISUAL))


def stop_in_first_validation():
    """Send SIGTERM to the last process when it begins its first validation."""
    from engine.validation import ValidationLosses

    compute = ValidationLosses.compute

    def send_signal(*args):
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return compute(*args)

    ValidationLosses.compute = send_signal


def test_signal_within_the_validation(launch_run, reference_run):
    """The finished steps are saved; the resumed run is identical, and equal to a run without validation losses."""
    run = launch_run(*VISUAL, size=2, prepare=stop_in_first_validation)
    assert run.wait() == [75, 75], run.output()
    assert read_checkpoint(run.folder / "run/checkpoint.pth")["progress"]["done"] == 16
    run = launch_run(*VISUAL, size=2)
    assert run.wait() == [0, 0], run.output()
    assert_same_run(run.folder / "run", reference_run(2, *VISUAL))
    assert [entry for entry in read_log(run.folder / "run") if "val_loss_vsum" in entry]
    assert_same_training(run.folder / "run", reference_run(2, *VISUAL, "--val_loss", "false"))


def test_signal_reaches_loader_workers(launch_run, reference_run):
    """Signals from srun or a terminal reach every process of the run."""
    run = launch_run(*VISUAL, "--num_workers", "1")
    run.wait_until(lambda: count_steps(run.folder / "run") >= 3)
    os.killpg(run.processes[0].pid, signal.SIGTERM)
    assert run.wait() == [75], run.output()
    run = launch_run(*VISUAL, "--num_workers", "1")
    assert run.wait() == [0], run.output()
    assert_same_run(run.folder / "run", reference_run(1, *VISUAL))


@pytest.mark.soak
def test_second_ctrl_c_exits_immediately(launch_run):
    run = launch_run("--max_epoch", "50", "--accumulate", "8")
    run.wait_until(lambda: count_steps(run.folder / "run") >= 1)
    run.signal(signal.SIGSTOP)  # so that no step finishes before SIGINT arrives
    run.signal(signal.SIGINT)
    run.signal(signal.SIGCONT)
    run.wait()
    assert "stopped by SIGINT" in run.output() or "interrupted" in run.output()


def test_run_of_two_processes_resumes_on_one(launch_run, reference_run):
    run = launch_run(*VISUAL, size=2)
    run.wait_until(lambda: count_steps(run.folder / "run") >= 3)
    run.signal(signal.SIGTERM)
    assert run.wait() == [75, 75], run.output()
    run = launch_run(*VISUAL, "--batch_size", "2")
    assert run.wait() == [0], run.output()
    assert "saved by 2 processes, now there is 1: the order of samples changes" in run.output()
    log = read_log(run.folder / "run")
    assert [entry["epoch"] for entry in log if entry["type"] == "epoch"] == [0, 1]
    assert sum(entry["type"] == "step" and entry["epoch"] == 1 for entry in log) == 16  # with half the batch size


@pytest.mark.parametrize("phase", ["training", "the first steps"])
def test_newest_checkpoint_is_truncated(launch_run, reference_run, phase):
    run = launch_run(*VISUAL, "--ckpt_steps", "2")
    run.wait_until(lambda: count_steps(run.folder / "run") >= (6 if phase == "training" else 3))
    run.signal(signal.SIGKILL)
    run.wait()
    path = run.folder / "run/checkpoint.pth"
    os.truncate(path, path.stat().st_size * 2 // 3)
    run = launch_run(*VISUAL, "--ckpt_steps", "2")
    status = run.wait()
    if status == [0]:
        assert "resuming from the previous checkpoint" in run.output()
        assert_same_run(run.folder / "run", reference_run(1, *VISUAL))
    else:  # no previous checkpoint yet
        assert status == [2] and "damaged" in run.output() and "--resume '' starts fresh" in run.output()


def limit_file_size(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_checkpoint_exceeds_the_disk(launch_run, reference_run, tmp_path):
    """A file size limit, in place of a full disk, makes the write fail halfway."""
    run = launch_run(*VISUAL, "--ckpt_steps", "4")
    run.wait_until(lambda: (run.folder / "run/checkpoint.pth").exists())
    run.signal(signal.SIGKILL)
    run.wait()
    intact = (run.folder / "run/checkpoint.pth").read_bytes()
    run = launch_run(*VISUAL, "--ckpt_steps", "1", prepare=functools.partial(limit_file_size, len(intact) // 2))
    assert run.wait() == [2], run.output()
    line = run.output().strip().splitlines()[-1]
    assert line == "error: run/checkpoint.pth: cannot be written (File too large)"
    assert "Traceback" not in run.output()
    assert (run.folder / "run/checkpoint.pth").read_bytes() == intact
    assert not list((run.folder / "run").glob(".*"))
    run = launch_run(*VISUAL, "--ckpt_steps", "4")
    assert run.wait() == [0], run.output()
    assert_same_run(run.folder / "run", reference_run(1, *VISUAL))


@pytest.fixture
def small_disk(tmp_path):
    """Mount a tmpfs as the run's folder; skip the test if that is not possible."""
    disk = tmp_path / "launch/run"
    disk.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_disk_is_full(launch_run, small_disk):
    """The disk fills while logging, then while saving; the intact checkpoint stays, and the run resumes from it."""
    run = launch_run(*VISUAL, "--ckpt_steps", "4")
    run.wait_until(lambda: (small_disk / "checkpoint.pth").exists())
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        while True:
            try:
                file.write(b"\0" * 4096)
            except OSError:
                break
    assert run.wait() == [2], run.output()
    assert "cannot be written (No space left on device)" in run.output().strip().splitlines()[-1]
    assert "Traceback" not in run.output()
    read_checkpoint(small_disk / "checkpoint.pth")
    os.truncate(filler, max(0, filler.stat().st_size - 2**20))  # room for the log, not for a checkpoint
    run = launch_run(*VISUAL, "--ckpt_steps", "1")
    assert run.wait() == [2], run.output()
    assert "error: run/checkpoint.pth: cannot be written (No space left on device)" in run.output()
    read_checkpoint(small_disk / "checkpoint.pth")
    filler.unlink()
    run = launch_run(*VISUAL, "--ckpt_steps", "0")
    assert run.wait() == [0], run.output()


def test_output_folder_is_not_writable(launch_run, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    run = launch_run()
    assert run.wait() == [2], run.output()
    assert "error: run: output_dir: found a folder that is not writable, expected a writable one" in run.output()
    assert not list(small_disk.iterdir())


def corrupt_features(folder, names, value):
    """Overwrite features of training videos with a value that makes the loss non-finite."""
    for name in names:
        path = folder / f"{name}.npz"
        np.savez(path, features=np.full_like(np.load(path)["features"], value))


@pytest.fixture
def corrupted_features(mini_root, tmp_path):
    folder = shutil.copytree(mini_root / "feat/blip", tmp_path / "blip")
    corrupt_features(folder, ["mini_train_007"], 1e38)
    return ["--video_embeddings_root", folder]


@pytest.mark.parametrize("size", [1, 2])
def test_non_finite_loss(launch_run, corrupted_features, size):
    """The run stops with the step and the video; the saved checkpoint is finite."""
    run = launch_run(*corrupted_features, "--ckpt_steps", "1", size=size)
    assert set(run.wait()) == {2}, run.output()
    assert (
        "error: epoch 1, step " in run.output() and "not finite: " in run.output() and "mini_train_007" in run.output()
    )
    path = run.folder / "run/checkpoint.pth"
    if path.exists():  # the video may be in the first step
        assert all(value.isfinite().all() for value in read_checkpoint(path)["model"].values())


def test_non_finite_gradient(launch_run, mini_root, tmp_path):
    """The loss is finite and the gradient overflows: the run stops before it saves the weights."""
    run = launch_run("--task", "v2v", "--lambda_vsum", "1e38", "--ckpt_steps", "1")
    assert run.wait() == [2], run.output()
    assert re.search(r"error: epoch 1, step 0: not finite: gradient norm (inf|nan); videos: mini_train_", run.output())
    assert not (run.folder / "run/checkpoint.pth").exists()


def test_best_checkpoint_and_last_snapshots_are_kept(launch_run):
    run = launch_run(*("--task", "v2v", "--eval_freq", "1", "--max_epoch", "3", "--ckpt_freq", "1", "--keep_last", "2"))
    assert run.wait() == [0], run.output()
    folder = run.folder / "run"
    taus = [entry["Kendall"] for entry in read_log(folder) if entry["type"] == "evaluation"]
    assert len(taus) == 3
    best = read_checkpoint(folder / "checkpoint_best.pth")
    assert best["epoch"] == taus.index(max(taus))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "checkpoint_001.pth",
        "checkpoint_002.pth",
    ]
