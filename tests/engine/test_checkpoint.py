import hashlib
import math
import random

import numpy as np
import pytest
import torch

from engine.checkpoint import Checkpoints, Progress
from engine.config import Config
from engine.schedule import cosine_lr, set_lr
from models.weights import read_checkpoint
from utils.distributed import World
from utils.files import atomic_write, sha256_of
from utils.log import JsonLines
from utils.seed import epoch_seed


def test_replacing_leaves_nothing_half_written(tmp_path):
    path = tmp_path / "x.json"
    with atomic_write(path) as file:
        file.write("whole")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


WORLD = World(0, 0, 1, torch.device("cpu"))


@pytest.fixture
def run(tmp_path):
    """A small model, its optimiser and the checkpoints of their folder."""

    def build(folder="run", config=None, sizes=(3, 3), world=WORLD, data="these"):
        (tmp_path / folder).mkdir(exist_ok=True)
        torch.manual_seed(0)
        model = torch.nn.Linear(*sizes)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        how = dict(model=model, optimizer=optimizer, data=data)
        return Checkpoints(tmp_path / folder, world, config or Config(), **how), model, optimizer

    return build


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(1, 3)).square().sum().backward()
    optimizer.step()


def saved(run, tmp_path, steps=1, **progress):
    """Make a run's folder with checkpoints after each of some steps."""
    checkpoints, model, optimizer = run()
    log = JsonLines(tmp_path / "run/log.jsonl")
    for epoch in range(steps):
        step(model, optimizer)
        log.write(epoch=epoch)
        checkpoints.save(Progress(epoch=epoch + 1, **progress), log)
    log.close()
    return checkpoints, model, optimizer


def test_training_state_round_trip(run, tmp_path):
    checkpoints, model, optimizer = saved(run, tmp_path, done=4, totals=[1.5, 2.0], seconds=1.25)
    drawn = torch.rand(3), random.random(), np.random.rand()
    other, other_model, other_optimizer = run()
    progress = other.resume("auto")
    assert (progress.epoch, progress.done, progress.totals, progress.seconds) == (1, 4, [1.5, 2.0], 1.25)
    assert progress.log_bytes == (tmp_path / "run/log.jsonl").stat().st_size
    other.seed(progress)
    again = torch.rand(3), random.random(), np.random.rand()
    assert torch.equal(drawn[0], again[0]) and drawn[1:] == again[1:]
    for m, o in ((model, optimizer), (other_model, other_optimizer)):
        step(m, o)
    assert torch.equal(model.weight, other_model.weight)
    state = read_checkpoint(checkpoints["checkpoint.pth"])
    assert state["versions"]["torch"] == torch.__version__ and state["config"] == Config().as_dict()


def test_the_order_of_what_a_run_goes_on_from(run, tmp_path, caplog):
    caplog.set_level("INFO")
    saved(run, tmp_path, steps=2)
    assert run()[0].resume("auto").epoch == 2
    path = str(tmp_path / "run/checkpoint.pth")
    assert run("elsewhere")[0].resume(path).epoch == 2
    elsewhere = run("elsewhere")[0]
    elsewhere.save(Progress(epoch=7), JsonLines(tmp_path / "elsewhere/log.jsonl"))
    assert run("elsewhere")[0].resume(path).epoch == 7  # its own comes first
    assert run("empty")[0].resume("auto") is None
    assert run()[0].resume("") is None
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["replaced"]
    assert sorted(p.name for p in (tmp_path / "run/replaced").iterdir()) == [
        "checkpoint.pth",
        "checkpoint_prev.pth",
        "log.jsonl",
    ]
    with pytest.raises(FileNotFoundError, match="none.pth: checkpoint: no such file"):
        run("empty")[0].resume("none.pth")


def test_a_restarted_run_goes_on_even_where_it_was_to_start_anew(run, tmp_path, monkeypatch):
    saved(run, tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert run()[0].resume("").epoch == 1


def test_a_damaged_newest_checkpoint_falls_back(run, tmp_path, caplog):
    saved(run, tmp_path, steps=3)
    newest, before = tmp_path / "run/checkpoint.pth", tmp_path / "run/checkpoint_prev.pth"
    flipped = bytearray(newest.read_bytes())
    flipped[flipped.find(b"data/0") + 100] ^= 1  # in the first tensor's bytes
    newest.write_bytes(flipped)
    assert run()[0].resume("auto").epoch == 2
    assert "checkpoint.pth: checkpoint: damaged" in caplog.text
    assert "checkpoint_prev.pth: going on from the checkpoint before the newest" in caplog.text
    newest.unlink()
    assert run()[0].resume("auto").epoch == 2
    newest.write_bytes(b"PK torn")
    before.write_bytes(before.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"checkpoint.pth: .* damaged .*checkpoint_prev.pth: .*; expected a whole"):
        run()[0].resume("auto")


def test_other_settings_or_data_are_another_run(run, tmp_path, caplog):
    saved(run, tmp_path)
    other = Config(init_lr=0.5, batch_size=3, num_workers=7, output_dir="there")
    with pytest.raises(
        ValueError, match=r"settings: init_lr \(was 1e-05, is 0.5\), batch_size \(was 16, is 3\); expected the same"
    ):
        run(config=other)[0].resume("auto")
    with pytest.raises(ValueError, match="ann_root .other training videos, captions or labels"):
        run(data="those")[0].resume("auto")
    assert run(config=Config(num_workers=7, ckpt_steps=2))[0].resume("auto").epoch == 1
    progress = run("new", config=other)[0].resume(str(tmp_path / "run/checkpoint.pth"))
    assert progress.epoch == 1 and progress.log_bytes is None
    assert "was trained with other settings: init_lr" in caplog.text


def test_another_number_of_processes_goes_on_with_a_warning(run, tmp_path, caplog):
    checkpoints, _, _ = saved(run, tmp_path, done=4, totals=[3.0])
    state = torch.load(checkpoints["checkpoint.pth"], weights_only=True)
    state["processes"] = [dict(state["processes"][0], totals=[value]) for value in (2.0, 4.0)]
    torch.save(state, checkpoints["checkpoint.pth"])
    progress = run()[0].resume("auto")
    assert (progress.done, progress.totals) == (4, [3.0])
    assert "was made by 2 processes, now there are 1: the order of samples changes" in caplog.text


def test_what_is_no_training_state(run, tmp_path):
    def resume(**state):
        torch.save(state, tmp_path / "odd.pth")
        return run("new")[0].resume(str(tmp_path / "odd.pth"))

    whole = torch.load(saved(run, tmp_path)[0]["checkpoint.pth"], weights_only=True)
    with pytest.raises(ValueError, match="resume: missing optimizer, epoch"):
        resume(model={})
    for change, reason in (
        (dict(optimizer=None), "does not fit the model"),
        (dict(progress=dict(epoch=-3)), r"progress: found \[-3, 0, 0\], expected counts"),
        (dict(progress=dict(epochs=3)), "progress: .*unexpected keyword"),
        (dict(progress=3), "progress: "),
        (dict(processes=None), "progress: "),
    ):
        with pytest.raises(ValueError, match=f"odd.pth: resume: {reason}"):
            resume(**whole | change)
    released = {name: whole[name] for name in ("model", "optimizer", "epoch")}
    assert resume(**released).epoch == 1
    with pytest.raises(ValueError, match="resume: does not fit the model"):
        run("new", sizes=(2, 2))[0].resume(str(tmp_path / "run/checkpoint.pth"))


def test_copies_are_kept_and_dropped(run, tmp_path):
    checkpoints, _, _ = saved(run, tmp_path)
    for epoch in (8, 9, 10):
        checkpoints.keep(f"checkpoints/checkpoint_{epoch:03d}.pth", last=2)
    kept = sorted((tmp_path / "run/checkpoints").iterdir())
    assert [path.name for path in kept] == ["checkpoint_009.pth", "checkpoint_010.pth"]
    before = kept[0].read_bytes()
    checkpoints.save(Progress(epoch=11), JsonLines(tmp_path / "run/log.jsonl"))
    assert kept[0].read_bytes() == before  # though it shared its bytes with the newest one
    assert not list((tmp_path / "run").glob(".*"))


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_cosine_schedule():
    rates = [cosine_lr(epoch, 8, 1.0, 0.2) for epoch in range(9)]
    assert rates[0] == 1.0 and rates[4] == pytest.approx(0.6) and rates[8] == pytest.approx(0.2)
    assert rates[2] == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi / 4)))
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    set_lr(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_epochs_and_ranks_have_their_own_seeds():
    assert len({epoch_seed(42, rank, epoch) for rank in range(8) for epoch in range(60)}) == 480
