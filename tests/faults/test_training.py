"""What happens to a training run when something is done to it: the same bytes in the end, or a clear line."""

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
from tests.faults.harness import assert_same, losses, steps

VISUAL = ("--task", "v2v")  # where the captions, and Java, do not matter
KILLS = int(os.environ.get("VTSUM_KILLS", "5"))  # `make soak` sets more


def test_killed_at_random_moments(begin, undisturbed):
    """kill -9, wherever it comes: while starting, in a step, while saving, while evaluating."""
    rng, kills = random.Random(5), 0
    task = VISUAL if KILLS == 5 else ()  # captions, with dropout and Java, in `make soak`
    while kills < KILLS:
        folder = f"life {kills}"  # a new one after every few kills
        for _ in range(min(KILLS - kills, 5)):
            run = begin(*task, "--ckpt_steps", "1", folder=folder)
            run.processes[0].join(rng.uniform(0.3, 4))
            kills += run.processes[0].is_alive()
            run.signal(signal.SIGKILL)
            assert run.wait()[0] in (0, -signal.SIGKILL), run.said()
        run = begin(*task, "--ckpt_steps", "1", folder=folder)
        assert run.wait() == [0], run.said()
        assert_same(run.folder / "run", undisturbed(1, *task))


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
def test_asked_to_end_in_the_middle_of_an_epoch(begin, undisturbed, size, number):
    """The step is finished and saved, the status is 75; one process's signal is enough. Continued: the same bytes."""
    run = begin(*VISUAL, size=size)
    run.until(lambda: steps(run.folder / "run") >= 5)
    run.signal(number, ranks=[size - 1])
    assert run.wait() == [75] * size, run.said()
    assert f"stopped by {number.name}; the same command resumes from here" in run.said()
    done = read_checkpoint(run.folder / "run/checkpoint.pth")["progress"]
    assert done["epoch"] == 0 and 5 * size <= done["done"] < 8 * size
    run = begin(*VISUAL, size=size)
    assert run.wait() == [0] * size, run.said()
    assert_same(run.folder / "run", undisturbed(size, *VISUAL))


def test_signals_to_the_loaders_workers_too(begin, undisturbed):
    """As srun's, and a terminal's Ctrl-C: they reach every process of the run."""
    run = begin(*VISUAL, "--num_workers", "1")
    run.until(lambda: steps(run.folder / "run") >= 3)
    os.killpg(run.processes[0].pid, signal.SIGTERM)
    assert run.wait() == [75], run.said()
    run = begin(*VISUAL, "--num_workers", "1")
    assert run.wait() == [0], run.said()
    assert_same(run.folder / "run", undisturbed(1, *VISUAL))


@pytest.mark.soak
def test_the_second_ctrl_c_ends_at_once(begin):
    run = begin("--max_epoch", "50", "--accumulate", "8")
    run.until(lambda: steps(run.folder / "run") >= 1)
    run.signal(signal.SIGSTOP)  # so that the step cannot be finished between the two
    run.signal(signal.SIGINT)
    run.signal(signal.SIGCONT)
    run.wait()
    assert "stopped by SIGINT" in run.said() or "interrupted" in run.said()


def test_two_processes_go_on_as_one(begin, undisturbed):
    run = begin(*VISUAL, size=2)
    run.until(lambda: steps(run.folder / "run") >= 3)
    run.signal(signal.SIGTERM)
    assert run.wait() == [75, 75], run.said()
    run = begin(*VISUAL, "--batch_size", "2")
    assert run.wait() == [0], run.said()
    assert "was made by 2 processes, now there are 1: the order of samples changes" in run.said()
    log = losses(run.folder / "run")
    assert [entry["epoch"] for entry in log if entry["type"] == "epoch"] == [0, 1]
    assert sum(entry["type"] == "step" and entry["epoch"] == 1 for entry in log) == 16  # of half the size


@pytest.mark.parametrize("moment", ["training", "the first steps"])
def test_the_newest_checkpoint_is_torn(begin, undisturbed, moment):
    run = begin(*VISUAL, "--ckpt_steps", "2")
    run.until(lambda: steps(run.folder / "run") >= (6 if moment == "training" else 3))
    run.signal(signal.SIGKILL)
    run.wait()
    path = run.folder / "run/checkpoint.pth"
    os.truncate(path, path.stat().st_size * 2 // 3)
    run = begin(*VISUAL, "--ckpt_steps", "2")
    status = run.wait()
    if status == [0]:
        assert "resuming from the checkpoint before the newest" in run.said()
        assert_same(run.folder / "run", undisturbed(1, *VISUAL))
    else:  # there was no other yet
        assert status == [2] and "damaged" in run.said() and "--resume '' starts fresh" in run.said()


def limit_files(most):
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def test_a_checkpoint_that_does_not_fit_on_the_disk(begin, undisturbed, tmp_path):
    """The limit on a file's size stands for a full disk: the write fails in its middle."""
    run = begin(*VISUAL, "--ckpt_steps", "4")
    run.until(lambda: (run.folder / "run/checkpoint.pth").exists())
    run.signal(signal.SIGKILL)
    run.wait()
    good = (run.folder / "run/checkpoint.pth").read_bytes()
    run = begin(*VISUAL, "--ckpt_steps", "1", prepare=functools.partial(limit_files, len(good) // 2))
    assert run.wait() == [2], run.said()
    line = run.said().strip().splitlines()[-1]
    assert line == "error: run/checkpoint.pth: cannot be written (File too large)"
    assert "Traceback" not in run.said()
    assert (run.folder / "run/checkpoint.pth").read_bytes() == good
    assert not list((run.folder / "run").glob(".*"))
    run = begin(*VISUAL, "--ckpt_steps", "4")
    assert run.wait() == [0], run.said()
    assert_same(run.folder / "run", undisturbed(1, *VISUAL))


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs that the run's folder lies on, or a skip where none can be mounted."""
    disk = tmp_path / "it/run"
    disk.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_the_disk_is_full(begin, small_disk):
    """First while logging, then while a checkpoint is written; the good one stays, and the run goes on from it."""
    run = begin(*VISUAL, "--ckpt_steps", "4")
    run.until(lambda: (small_disk / "checkpoint.pth").exists())
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        while True:
            try:
                file.write(b"\0" * 4096)
            except OSError:
                break
    assert run.wait() == [2], run.said()
    assert "cannot be written (No space left on device)" in run.said().strip().splitlines()[-1]
    assert "Traceback" not in run.said()
    read_checkpoint(small_disk / "checkpoint.pth")
    os.truncate(filler, max(0, filler.stat().st_size - 2**20))  # room for the log, not for a checkpoint
    run = begin(*VISUAL, "--ckpt_steps", "1")
    assert run.wait() == [2], run.said()
    assert "error: run/checkpoint.pth: cannot be written (No space left on device)" in run.said()
    read_checkpoint(small_disk / "checkpoint.pth")
    filler.unlink()
    run = begin(*VISUAL, "--ckpt_steps", "0")
    assert run.wait() == [0], run.said()


def test_an_output_folder_that_cannot_be_written_to(begin, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    run = begin()
    assert run.wait() == [2], run.said()
    assert "error: run: output_dir: found a folder that cannot be written to, expected one that can" in run.said()
    assert not list(small_disk.iterdir())


def spoil(folder, names, value):
    """Give some training videos features that make the losses not finite."""
    for name in names:
        path = folder / f"{name}.npz"
        np.savez(path, features=np.full_like(np.load(path)["features"], value))


@pytest.fixture
def spoiled(mini_root, tmp_path):
    folder = shutil.copytree(mini_root / "feat/blip", tmp_path / "blip")
    spoil(folder, ["mini_train_007"], 1e38)
    return ["--video_embeddings_root", folder]


@pytest.mark.parametrize("size", [1, 2])
def test_a_loss_that_is_not_finite(begin, spoiled, size):
    """The run stops and names step and video; the last good state is what the folder has."""
    run = begin(*spoiled, "--ckpt_steps", "1", size=size)
    assert set(run.wait()) == {2}, run.said()
    assert "error: epoch 0, step " in run.said() and "not finite: " in run.said() and "mini_train_007" in run.said()
    path = run.folder / "run/checkpoint.pth"
    if path.exists():  # the video may come in the first step
        assert all(value.isfinite().all() for value in read_checkpoint(path)["model"].values())


def test_a_gradient_that_is_not_finite(begin, mini_root, tmp_path):
    """The losses are finite, the gradient overflows: the run stops before it saves the weights."""
    run = begin("--task", "v2v", "--lambda_vsum", "1e38", "--ckpt_steps", "1")
    assert run.wait() == [2], run.said()
    assert re.search(r"error: epoch 0, step 0: not finite: gradient norm (inf|nan); videos: mini_train_", run.said())
    assert not (run.folder / "run/checkpoint.pth").exists()


def test_the_best_checkpoint_and_the_last_copies(begin):
    run = begin(*("--task", "v2v", "--eval_freq", "1", "--max_epoch", "3", "--ckpt_freq", "1", "--keep_last", "2"))
    assert run.wait() == [0], run.said()
    folder = run.folder / "run"
    taus = [entry["Kendall"] for entry in losses(folder) if entry["type"] == "evaluation"]
    assert len(taus) == 3
    best = read_checkpoint(folder / "checkpoint_best.pth")
    assert best["epoch"] == taus.index(max(taus))
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["checkpoint_001.pth", "checkpoint_002.pth"]
