"""Options that make a run faster, against the plain run; and more than one machine."""

import json
import shlex
import shutil
import socket

import pytest
import torch

from data.pack import main as pack
from tests.conftest import ROOT
from tests.documents import code, commands
from tests.processes import run, start


def weights(folder):
    return torch.load(folder / "checkpoint.pth", weights_only=True)["model"]


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def losses(folder):
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in log if entry["type"] == "step"]


SHORT = ["--max_epoch", "2", "--task", "v2v", "--splits", "val", "--log_freq", "1"]


def test_packed_features_change_nothing(train, mini_root, tmp_path):
    plain = train("plain", *SHORT)
    (tmp_path / "dataset").mkdir()
    shutil.copytree(mini_root, tmp_path / "dataset/ActivityNet")
    words = shlex.split(next(line for line in code("data").splitlines() if line.startswith("python -m data.pack")))
    files = [str(path) for path in sorted((tmp_path / "dataset/ActivityNet/anno").glob("*_videoxum.json"))]
    i = words.index("dataset/ActivityNet/anno/*_videoxum.json")  # which a shell would expand
    pack([*words[3:i], *files, *words[i + 1 :]])
    packed = train("packed", *SHORT, "--video_embeddings_root", words[-1], "--num_workers", "1")
    assert same(weights(packed), weights(plain))
    assert (packed / "predictions_val.jsonl").read_bytes() == (plain / "predictions_val.jsonl").read_bytes()


def test_bucketing_meets_other_videos(train):
    plain, bucketed = train("plain", *SHORT), train("bucketed", *SHORT, "--length_bucketing")
    assert losses(plain) != losses(bucketed) and len(losses(plain)) == len(losses(bucketed))
    assert "frame slots; " in (plain / "train.log").read_text()


def test_bf16_learns_the_same(train, without_dropout):
    flags = ["--max_epoch", "1", "--splits", "val", "--log_freq", "1", "--init_lr", "1e-4", *without_dropout]
    plain, half = train("plain", *flags), train("half", *flags, "--precision", "bf16")
    assert losses(half) != losses(plain) and losses(half) == pytest.approx(losses(plain), rel=0.02)
    assert all(value.dtype == torch.float32 for value in weights(half).values())
    scores = [json.loads((folder / "results_val.json").read_text())["metrics"] for folder in (plain, half)]
    assert scores[0].keys() == scores[1].keys()


@pytest.mark.soak
def test_fp16_keeps_its_scale_when_resumed(train):
    short = [*SHORT, "--max_video_length", "3"]  # float16 is slow on a CPU
    plain, half = train("plain", *short), train("half", *short, "--precision", "fp16")
    assert losses(half)[0] == pytest.approx(losses(plain)[0], rel=0.01)
    scaler = torch.load(half / "checkpoint.pth", weights_only=True)["scaler"]
    assert scaler["scale"] > 1 and "scaler" not in torch.load(plain / "checkpoint.pth", weights_only=True)
    again = train("again", *short, "--max_epoch", "3", "--precision", "fp16", "--resume", "half/checkpoint.pth")
    resumed = torch.load(again / "checkpoint.pth", weights_only=True)["scaler"]
    assert (resumed["scale"], resumed["_growth_tracker"]) == (scaler["scale"], scaler["_growth_tracker"] + 3)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.soak
def test_compiled_layers_learn_the_same(train, without_dropout):
    flags = ["--max_epoch", "1", "--splits", "val", "--log_freq", "1", "--num_beams", "1", *without_dropout]
    plain, compiled = train("plain", *flags), train("compiled", *flags, "--compile")
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-5)
    assert weights(compiled).keys() == weights(plain).keys()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.soak
def test_two_machines_equal_one_and_accumulated_batches(train, mini_flags, without_dropout, tmp_path):
    """Two launchers on this machine, as documented; one launcher; one process with two batches a step."""
    script = [str(ROOT / "train_v2vt_sum.py"), "--config", str(ROOT / "configs/mini.yaml"), *mini_flags]
    script += [*without_dropout, *SHORT, "--batch_size", "8", "--ckpt_freq", "0"]
    launcher = ["python", "-m", "torch.distributed.run"]
    line = next(line for line in commands("training", "train_v2vt_sum.py") if "--nnodes=2" in line)
    for found, here in (
        ("--nproc_per_node=4", "--nproc_per_node=1"),
        ("--master_addr=node0 --master_port=29500", f"--master_addr=127.0.0.1 --master_port={free_port()}"),
        ("train_v2vt_sum.py --config configs/vtsum_blip_tt_ca.yaml", shlex.join(script)),
    ):
        assert found in line
        line = line.replace(found, here)
    nodes = [shlex.split(line.replace("--node_rank=0", f"--node_rank={rank}")) for rank in range(2)]
    agents = [start([*node, "--output_dir", "nodes"], tmp_path) for node in nodes]
    shown = [agent.communicate(timeout=200)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], shown
    one = [*launcher, "--standalone", "--nproc_per_node=2", *script, "--output_dir", "one"]
    status, shown = run(one, tmp_path)
    assert status == 0, shown
    train("accumulated", *without_dropout, *SHORT, "--batch_size", "8", "--ckpt_freq", "0", "--accumulate", "2")
    folders = [tmp_path / name for name in ("nodes", "one", "accumulated")]
    nodes, one, accumulated = map(weights, folders)
    assert same(nodes, one)
    for name in one:
        torch.testing.assert_close(accumulated[name], one[name], rtol=0, atol=2e-4, msg=name)
    results = [json.loads((folder / "results_val.json").read_text())["metrics"] for folder in folders]
    assert results[0] == pytest.approx(results[1], abs=1e-6)
