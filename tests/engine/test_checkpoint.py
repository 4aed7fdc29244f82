import contextlib
import hashlib
import math
import random

import numpy as np
import pytest
import torch

from engine.checkpoint import Checkpointer, TrainState
from engine.config import Config
from engine.trainer import cosine_lr
from models.weights import read_checkpoint
from utils.distributed import DistContext
from utils.files import atomic_write, compute_sha256
from utils.log import JsonlLogger
from utils.seed import derive_epoch_seed


def test_failed_atomic_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    with atomic_write(path) as file:
        file.write("whole")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


CONTEXT = DistContext(0, 0, 1, torch.device("cpu"))


@pytest.fixture
def build_run(tmp_path):
    """Return a function that builds a checkpointer of a folder, a small model and its optimizer."""

    def build(folder="run", config=None, sizes=(3, 3), context=CONTEXT, data="these"):
        (tmp_path / folder).mkdir(exist_ok=True)
        torch.manual_seed(0)
        model = torch.nn.Linear(*sizes)
        optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.1)
        options = dict(model=model, optimizer=optimizer, data_fingerprint=data)
        return Checkpointer(tmp_path / folder, context, config or Config(), **options), model, optimizer

    return build


def take_step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(1, 3)).square().sum().backward()
    optimizer.step()


def save_run(build_run, tmp_path, epochs=1, **progress):
    """Make a run's folder with a checkpoint after each of `epochs` epochs of one step."""
    checkpoints, model, optimizer = build_run()
    log = JsonlLogger(tmp_path / "run/log.jsonl")
    for epoch in range(epochs):
        take_step(model, optimizer)
        log.write(epoch=epoch)
        checkpoints.save(TrainState(epoch=epoch + 1, **progress), log)
    log.close()
    return checkpoints, model, optimizer


def test_training_state_round_trip(build_run, tmp_path):
    checkpoints, model, optimizer = save_run(build_run, tmp_path, batches_done=4, loss_sums=[1.5, 2.0], seconds=1.25)
    expected = torch.rand(3), random.random(), np.random.rand()
    other, other_model, other_optimizer = build_run()
    progress = other.resume("auto")
    assert (progress.epoch, progress.batches_done, progress.loss_sums, progress.seconds) == (1, 4, [1.5, 2.0], 1.25)
    assert progress.log_bytes == (tmp_path / "run/log.jsonl").stat().st_size
    other.seed(progress)
    actual = torch.rand(3), random.random(), np.random.rand()
    assert torch.equal(expected[0], actual[0]) and expected[1:] == actual[1:]
    for network, its_optimizer in ((model, optimizer), (other_model, other_optimizer)):
        take_step(network, its_optimizer)
    assert torch.equal(model.weight, other_model.weight)
    state = read_checkpoint(checkpoints["checkpoint.pth"])
    assert state["versions"]["torch"] == torch.__version__ and state["config"] == Config().as_dict()


def test_order_of_checkpoints_to_resume_from(build_run, tmp_path, caplog):
    caplog.set_level("INFO")
    save_run(build_run, tmp_path, epochs=2)
    assert build_run()[0].resume("auto").epoch == 2
    path = str(tmp_path / "run/checkpoint.pth")
    assert build_run("elsewhere")[0].resume(path).epoch == 2
    elsewhere = build_run("elsewhere")[0]
    elsewhere.save(TrainState(epoch=7), JsonlLogger(tmp_path / "elsewhere/log.jsonl"))
    assert build_run("elsewhere")[0].resume(path).epoch == 7  # the folder's own checkpoint has priority
    assert build_run("empty")[0].resume("auto") is None
    assert build_run()[0].resume("") is None
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["replaced"]
    assert sorted(file.name for file in (tmp_path / "run/replaced").iterdir()) == [
        "checkpoint.pth",
        "checkpoint_prev.pth",
        "log.jsonl",
    ]
    with pytest.raises(FileNotFoundError, match="none.pth: checkpoint: no such file"):
        build_run("empty")[0].resume("none.pth")


def test_run_restarted_by_the_launcher_resumes_despite_empty_resume(build_run, tmp_path, monkeypatch):
    save_run(build_run, tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert build_run()[0].resume("").epoch == 1


def test_damaged_checkpoint_falls_back_to_the_previous_one(build_run, tmp_path, caplog):
    save_run(build_run, tmp_path, epochs=3)
    newest, previous = tmp_path / "run/checkpoint.pth", tmp_path / "run/checkpoint_prev.pth"
    flipped = bytearray(newest.read_bytes())
    flipped[flipped.find(b"data/0") + 100] ^= 1  # a byte of the first tensor
    newest.write_bytes(flipped)
    assert build_run()[0].resume("auto").epoch == 2
    assert "checkpoint.pth: checkpoint: damaged" in caplog.text
    assert "checkpoint_prev.pth: resuming from the previous checkpoint" in caplog.text
    newest.unlink()
    assert build_run()[0].resume("auto").epoch == 2
    newest.write_bytes(b"PK torn")
    previous.write_bytes(previous.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match=r"checkpoint.pth: .* damaged .*checkpoint_prev.pth: .*; expected an undamaged"
    ):
        build_run()[0].resume("auto")


def test_resuming_with_other_settings_or_data_raises(build_run, tmp_path, caplog):
    save_run(build_run, tmp_path)
    other = Config(init_lr=0.5, batch_size=3, num_workers=7, output_dir="there")
    with pytest.raises(
        ValueError, match=r"settings: init_lr \(was 1e-05, is 0.5\), batch_size \(was 16, is 3\); expected the same"
    ):
        build_run(config=other)[0].resume("auto")
    with pytest.raises(ValueError, match="ann_root, subset .other training videos, captions or labels"):
        build_run(data="those")[0].resume("auto")
    assert build_run(config=Config(num_workers=7, ckpt_steps=2))[0].resume("auto").epoch == 1
    progress = build_run("new", config=other)[0].resume(str(tmp_path / "run/checkpoint.pth"))
    assert progress.epoch == 1 and progress.log_bytes is None
    assert "was trained with other settings: init_lr" in caplog.text


def test_earlier_name_of_a_precision_resumes(build_run, tmp_path):
    checkpoints, _, _ = save_run(build_run, tmp_path)
    state = torch.load(checkpoints["checkpoint.pth"], weights_only=True)
    state["config"]["precision"] = "float32"
    torch.save(state, checkpoints["checkpoint.pth"])
    assert build_run()[0].resume("auto").epoch == 1
    with pytest.raises(ValueError, match=r"precision \(was 'fp32', is 'bf16'\)"):
        build_run(config=Config(precision="bf16"))[0].resume("auto")


def test_settings_in_published_checkpoint_are_compared_by_value(build_run, tmp_path, caplog):
    """Null is the empty string, integers equal floats, and further keys do not matter, also in the run's own folder."""
    config = Config(pretrained="", lambda_vsum=15.0, log_freq=3)
    checkpoints, _, _ = save_run(build_run, tmp_path)
    saved = torch.load(checkpoints["checkpoint.pth"], weights_only=True)
    published = {name: saved[name] for name in ("model", "optimizer", "epoch")}
    paths = dict(result_dir="x", ckpt_dir="y", logger_pth="z")
    published["config"] = config.as_dict() | paths | dict(pretrained=None, lambda_vsum=15, print_freq=50)
    torch.save(published, checkpoints["checkpoint.pth"])
    assert build_run(config=config)[0].resume("auto").epoch == 1
    assert build_run("new", config=config)[0].resume(str(checkpoints["checkpoint.pth"])).epoch == 1
    assert "other settings" not in caplog.text
    with pytest.raises(ValueError, match=r"other settings: pretrained \(was '', is 'blip.pth'\); expected"):
        build_run(config=config.replace(pretrained="blip.pth"))[0].resume("auto")


def test_resuming_with_another_number_of_processes_warns(build_run, tmp_path, caplog):
    checkpoints, _, _ = save_run(build_run, tmp_path, batches_done=4, loss_sums=[3.0])
    state = torch.load(checkpoints["checkpoint.pth"], weights_only=True)
    state["processes"] = [dict(state["processes"][0], totals=[value]) for value in (2.0, 4.0)]
    torch.save(state, checkpoints["checkpoint.pth"])
    progress = build_run()[0].resume("auto")
    assert (progress.batches_done, progress.loss_sums) == (4, [3.0])
    assert "saved by 2 processes, now there is 1: the order of samples changes" in caplog.text
    state["processes"] = state["processes"][:1]
    torch.save(state, checkpoints["checkpoint.pth"])
    build_run(context=DistContext(0, 0, 2, torch.device("cpu")))[0].restore(
        checkpoints["checkpoint.pth"], is_same_run=True
    )
    assert "saved by 1 process, now there are 2: the order of samples changes" in caplog.text


@pytest.mark.parametrize(
    ("world_size", "batches_per_epoch", "position"),
    [(1, 12, "8 of 12 batches"), (2, 6, "4 of 6 batches"), (3, 4, "8 batches of all processes")],
)
def test_resumed_position_is_in_batches_of_a_process(
    build_run, tmp_path, caplog, monkeypatch, world_size, batches_per_epoch, position
):
    caplog.set_level("INFO")
    save_run(build_run, tmp_path, batches_done=8)
    monkeypatch.setattr("utils.distributed.broadcast_object", lambda value, context: value)  # of a single process
    monkeypatch.setattr("utils.distributed.local_main_first", lambda context: contextlib.nullcontext())
    run = build_run(context=DistContext(0, 0, world_size, torch.device("cpu")))[0]
    assert run.resume("auto", batches_per_epoch).batches_done == 8
    assert f"checkpoint.pth: resumed at epoch 2, after {position}\n" in caplog.text


def test_invalid_training_states_raise(build_run, tmp_path):
    def resume(**state):
        torch.save(state, tmp_path / "odd.pth")
        return build_run("new")[0].resume(str(tmp_path / "odd.pth"))

    whole = torch.load(save_run(build_run, tmp_path)[0]["checkpoint.pth"], weights_only=True)
    with pytest.raises(ValueError, match="resume: missing optimizer, epoch"):
        resume(model={})
    for change, reason in (
        (dict(optimizer=None), "does not fit the model"),
        (dict(progress=dict(epoch=-3)), r"progress: found \[-3, 0\], expected counts"),
        (dict(progress=dict(epochs=3)), "progress: epoch: missing"),
        (dict(progress=3), "progress: "),
        (dict(processes=None), "progress: "),
    ):
        with pytest.raises(ValueError, match=f"odd.pth: resume: {reason}"):
            resume(**whole | change)

    def transpose(optimizer):
        state = {i: dict(values) for i, values in optimizer["state"].items()}
        state[1]["exp_avg"] = state[1]["exp_avg"][:2]
        return optimizer | dict(state=state)

    message = (
        r"odd.pth: resume: does not fit the model \(optimizer: bias: exp_avg: found \(2,\), expected \(3,\)\); "
        r"--resume '' starts fresh$"
    )
    run, model, optimizer = build_run("new")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save(whole | dict(optimizer=transpose(whole["optimizer"])), tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=message):
        run.resume(str(tmp_path / "odd.pth"))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not optimizer.state
    released = {name: whole[name] for name in ("model", "optimizer", "epoch")}
    assert resume(**released).epoch == 1
    with pytest.raises(ValueError, match="resume: does not fit the model"):
        build_run("new", sizes=(2, 2))[0].resume(str(tmp_path / "run/checkpoint.pth"))


def test_checkpoint_of_ddp_model_without_names_resumes(build_run, tmp_path):
    """Names in the published code have the prefix of DDP if its wrapped model was saved; steps were integers."""
    checkpoints, model, optimizer = save_run(build_run, tmp_path)
    saved = torch.load(checkpoints["checkpoint.pth"], weights_only=True)
    saved["model"] = {f"module.{name}": value for name, value in saved["model"].items()}
    del saved["optimizer"]["param_groups"][0]["param_names"]
    for state in saved["optimizer"]["state"].values():
        state["step"] = int(state["step"])
    path = tmp_path / "published.pth"
    torch.save({name: saved[name] for name in ("model", "optimizer", "config", "epoch")}, path)
    other, other_model, other_optimizer = build_run("new")
    assert other.resume(str(path)).epoch == 1
    for network, its_optimizer in ((model, optimizer), (other_model, other_optimizer)):
        take_step(network, its_optimizer)
    assert torch.equal(model.weight, other_model.weight) and torch.equal(model.bias, other_model.bias)


def test_old_snapshots_are_removed(build_run, tmp_path):
    checkpoints, _, _ = save_run(build_run, tmp_path)
    for epoch in (8, 9, 10):
        checkpoints.save_snapshot(f"checkpoints/checkpoint_{epoch:03d}.pth", keep_last=2)
    snapshots = sorted((tmp_path / "run/checkpoints").iterdir())
    assert [path.name for path in snapshots] == ["checkpoint_009.pth", "checkpoint_010.pth"]
    before = snapshots[0].read_bytes()
    checkpoints.save(TrainState(epoch=11), JsonlLogger(tmp_path / "run/log.jsonl"))
    assert snapshots[0].read_bytes() == before  # it was a hard link to the newest checkpoint
    assert not list((tmp_path / "run").glob(".*"))


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert compute_sha256(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_cosine_schedule():
    rates = [cosine_lr(epoch, 8, 1.0, 0.2) for epoch in range(9)]
    assert rates[0] == 1.0 and rates[4] == pytest.approx(0.6) and rates[8] == pytest.approx(0.2)
    assert rates[2] == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi / 4)))


def test_seeds_differ_between_epochs_and_ranks():
    assert len({derive_epoch_seed(42, rank, epoch) for rank in range(8) for epoch in range(60)}) == 480
