import hashlib
import math

import pytest
import torch

from utils.checkpoint import load_training_state, save_checkpoint
from utils.config import Config
from utils.files import replacing, sha256_of
from utils.schedule import cosine_lr, set_lr
from utils.seed import epoch_seed


def test_replacing_leaves_nothing_half_written(tmp_path):
    path = tmp_path / "x.json"
    with replacing(path) as file:
        file.write("whole")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


def test_training_state_round_trip(tmp_path):
    def build():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 3)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def step(model, optimizer):
        optimizer.zero_grad()
        model(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()

    model, optimizer = build()
    step(model, optimizer)
    save_checkpoint(tmp_path / "c.pth", model=model, optimizer=optimizer, epoch=4, config=Config())
    other, other_optimizer = build()
    assert load_training_state(tmp_path / "c.pth", model=other, optimizer=other_optimizer) == 5
    for m, o in ((model, optimizer), (other, other_optimizer)):
        step(m, o)
    assert torch.equal(model.weight, other.weight)
    torch.save({"model": {}}, tmp_path / "released.pth")
    with pytest.raises(ValueError, match="resume: missing optimizer, epoch"):
        load_training_state(tmp_path / "released.pth", model=other, optimizer=other_optimizer)
    torch.save(dict(model=model.state_dict(), optimizer=None, epoch=-3), tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="resume: epoch: found -3"):
        load_training_state(tmp_path / "odd.pth", model=other, optimizer=other_optimizer)
    torch.save(dict(model=model.state_dict(), optimizer=None, epoch=3), tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="resume: does not fit the model"):
        load_training_state(tmp_path / "odd.pth", model=other, optimizer=other_optimizer)
    with pytest.raises(ValueError, match="resume: does not fit the model"):
        load_training_state(tmp_path / "c.pth", model=torch.nn.Linear(2, 2), optimizer=other_optimizer)


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
