"""Options that make a run faster, and several machines, compared with the plain run."""

import json
import shlex
import shutil

import pytest
import torch

from data.pack import main as pack
from tests.conftest import ROOT
from tests.helpers.documents import read_code, read_launcher_commands
from tests.helpers.processes import find_free_port, run, start


def read_weights(folder):
    return torch.load(folder / "checkpoint.pth", weights_only=True)["model"]


def are_equal(actual, expected):
    return actual.keys() == expected.keys() and all(torch.equal(actual[name], expected[name]) for name in actual)


def read_losses(folder):
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in log if entry["type"] == "step"]


SHORT = ["--max_epoch", "2", "--task", "v2v", "--splits", "val", "--log_freq", "1"]


def test_packed_features_do_not_change_results(train, mini_root, tmp_path):
    plain = train("plain", *SHORT)
    (tmp_path / "dataset").mkdir()
    shutil.copytree(mini_root, tmp_path / "dataset/ActivityNet")
    argv = shlex.split(next(line for line in read_code("data").splitlines() if line.startswith("python -m data.pack")))
    files = [str(path) for path in sorted((tmp_path / "dataset/ActivityNet/anno").glob("*_videoxum.json"))]
    i = argv.index("dataset/ActivityNet/anno/*_videoxum.json")  # a shell would expand it
    pack([*argv[3:i], *files, *argv[i + 1 :]])
    packed = train("packed", *SHORT, "--video_embeddings_root", argv[-1], "--num_workers", "1")
    assert are_equal(read_weights(packed), read_weights(plain))
    assert (packed / "predictions_val.jsonl").read_bytes() == (plain / "predictions_val.jsonl").read_bytes()


def test_bucketing_changes_the_batches(train):
    plain, bucketed = train("plain", *SHORT), train("bucketed", *SHORT, "--length_bucketing")
    assert read_losses(plain) != read_losses(bucketed) and len(read_losses(plain)) == len(read_losses(bucketed))
    assert "frame slots; " in (plain / "train.log").read_text()


def test_bf16_losses_are_close_to_float32(train, no_dropout_flags):
    flags = ["--max_epoch", "1", "--splits", "val", "--log_freq", "1", "--init_lr", "1e-4", *no_dropout_flags]
    plain, half = train("plain", *flags), train("half", *flags, "--precision", "bf16")
    assert read_losses(half) != read_losses(plain) and read_losses(half) == pytest.approx(read_losses(plain), rel=0.02)
    assert all(value.dtype == torch.float32 for value in read_weights(half).values())
    scores = [json.loads((folder / "results_val.json").read_text())["metrics"] for folder in (plain, half)]
    assert scores[0].keys() == scores[1].keys()


@pytest.mark.soak
def test_resumed_fp16_run_keeps_the_gradient_scale(train):
    short = [*SHORT, "--max_video_length", "3"]  # float16 is slow on a CPU
    plain, half = train("plain", *short), train("half", *short, "--precision", "fp16")
    assert read_losses(half)[0] == pytest.approx(read_losses(plain)[0], rel=0.01)
    scaler = torch.load(half / "checkpoint.pth", weights_only=True)["scaler"]
    assert scaler["scale"] > 1 and "scaler" not in torch.load(plain / "checkpoint.pth", weights_only=True)
    continued = train("again", *short, "--max_epoch", "3", "--precision", "fp16", "--resume", "half/checkpoint.pth")
    resumed = torch.load(continued / "checkpoint.pth", weights_only=True)["scaler"]
    assert (resumed["scale"], resumed["_growth_tracker"]) == (scaler["scale"], scaler["_growth_tracker"] + 3)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.soak
def test_compiled_layers_have_equal_losses(train, no_dropout_flags):
    flags = ["--max_epoch", "1", "--splits", "val", "--log_freq", "1", "--num_beams", "1", *no_dropout_flags]
    plain, compiled = train("plain", *flags), train("compiled", *flags, "--compile")
    assert read_losses(compiled) == pytest.approx(read_losses(plain), rel=1e-5)
    assert read_weights(compiled).keys() == read_weights(plain).keys()


@pytest.mark.soak
def test_two_machines_equal_one_machine_and_accumulated_batches(train, mini_flags, no_dropout_flags, tmp_path):
    """Two documented launchers on one machine, one launcher, and one process with two batches per step."""
    script = [str(ROOT / "train_v2vt_sum.py"), "--config", str(ROOT / "configs/mini.yaml"), *mini_flags]
    script += [*no_dropout_flags, *SHORT, "--batch_size", "8", "--ckpt_freq", "0"]
    launcher = ["python", "-m", "torch.distributed.run"]
    line = next(line for line in read_launcher_commands("training", "train_v2vt_sum.py") if "--nnodes=2" in line)
    for documented, replacement in (
        ("--nproc_per_node=4", "--nproc_per_node=1"),
        ("--master_addr=node0 --master_port=29500", f"--master_addr=127.0.0.1 --master_port={find_free_port()}"),
        ("train_v2vt_sum.py --config configs/vtsum_blip_tt_ca.yaml --precision bf16", shlex.join(script)),
    ):
        assert documented in line
        line = line.replace(documented, replacement)
    nodes = [shlex.split(line.replace("--node_rank=0", f"--node_rank={rank}")) for rank in range(2)]
    agents = [start([*node, "--output_dir", "nodes"], tmp_path) for node in nodes]
    outputs = [agent.communicate(timeout=200)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    one = [*launcher, "--standalone", "--nproc_per_node=2", *script, "--output_dir", "one"]
    status, output = run(one, tmp_path)
    assert status == 0, output
    train("accumulated", *no_dropout_flags, *SHORT, "--batch_size", "8", "--ckpt_freq", "0", "--accumulate", "2")
    folders = [tmp_path / name for name in ("nodes", "one", "accumulated")]
    nodes, one, accumulated = map(read_weights, folders)
    assert are_equal(nodes, one)
    for name in one:
        torch.testing.assert_close(accumulated[name], one[name], rtol=0, atol=2e-4, msg=name)
    results = [json.loads((folder / "results_val.json").read_text())["metrics"] for folder in folders]
    assert results[0] == pytest.approx(results[1], abs=1e-6)
