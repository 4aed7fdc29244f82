"""Choice of the device, on machines with other numbers of GPUs than this one."""

import pytest
import torch

import app
import eval_tvsum_summe
import extract_features
import summarize
from tests.conftest import ROOT
from tests.helpers.device_options import expect_device_options
from utils.device import setup_device
from utils.distributed import init_context


@pytest.fixture
def set_gpus(monkeypatch):
    """Return a function that makes PyTorch report a number of GPUs; `used` lists those that are selected."""
    used = []

    def report(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: used.append(str(device)))
        return used

    return report


@pytest.mark.parametrize(
    ("gpus", "name", "device"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (2, "auto", "cuda"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda"),
        (2, "cuda:0", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_device_of_a_name(set_gpus, gpus, name, device):
    set_gpus(gpus)
    assert str(setup_device(name)) == device


@pytest.mark.parametrize(
    ("gpus", "name", "message"),
    [
        (0, "cuda", "device: found no GPU that PyTorch can use, expected one for device cuda; use --device cpu"),
        (0, "cuda:0", "device: found no GPU that PyTorch can use, expected one for device cuda:0; use --device cpu"),
        (2, "cuda:2", "device: found cuda:2, expected N below 2, the number of GPUs that PyTorch can use"),
        (2, "gpu", "device: found 'gpu', expected auto, cpu, cuda or cuda:N"),
    ],
)
def test_unavailable_devices_raise(set_gpus, gpus, name, message):
    set_gpus(gpus)
    for choose in (setup_device, init_context):
        with pytest.raises(ValueError) as caught:
            choose(name)
        assert str(caught.value) == message


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("setup", [setup_device, init_context])
def test_options_of_pytorch(setup, tf32):
    with expect_device_options(tf32):
        setup("cpu", tf32=tf32)


class Stopped(Exception):
    """Ends a command after its setup."""


@pytest.mark.parametrize(("script", "tf32"), [(app, False), (summarize, True)])
def test_summarizing_commands_set_the_options(script, tf32, summary_settings, mini_videos, tmp_path, monkeypatch):
    """The tests of the other commands check the options, too."""

    def stop(*arguments, **options):
        raise Stopped

    monkeypatch.setattr("summary.summarizer.Summarizer.summarize", stop)
    monkeypatch.setattr("tempfile.TemporaryDirectory", stop)  # of the demo page's files
    argv = [word for name, value in summary_settings.items() for word in (f"--{name}", str(value))]
    if script is summarize:
        argv += [str(mini_videos / "videos/mini_test_000.mp4"), "--out", str(tmp_path)]
    with expect_device_options(tf32), pytest.raises(Stopped):
        script.main([*argv, *(["--tf32"] if tf32 else [])])


def set_processes(monkeypatch, rank, size, local_size):
    variables = dict(RANK=rank, WORLD_SIZE=size, LOCAL_RANK=rank % local_size, LOCAL_WORLD_SIZE=local_size)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


def test_numbered_gpu_is_for_one_process(set_gpus, monkeypatch):
    used = set_gpus(4)
    assert str(init_context("cuda:2").device) == "cuda:2" and used == ["cuda:2"]
    assert str(init_context("cuda").device) == "cuda:0" and used == ["cuda:2", "cuda:0"]
    for rank in (0, 1):
        set_processes(monkeypatch, rank, 2, 2)
        with pytest.raises(ValueError) as caught:
            init_context("cuda:2")
        assert str(caught.value) == (
            "device: found cuda:2 for 2 processes of this machine, expected cuda, which gives each process its own "
            "GPU; use --device cuda or --nproc_per_node=1"
        )
    assert len(used) == 2


def test_processes_of_a_machine_share_its_gpus(set_gpus, monkeypatch):
    joined = []
    monkeypatch.setattr("utils.distributed._init_process_group", lambda *arguments: joined.append(str(arguments[-1])))
    used = set_gpus(2)
    set_processes(monkeypatch, 3, 4, 2)
    assert str(init_context("auto").device) == "cuda:1"
    set_processes(monkeypatch, 1, 2, 1)  # one process on each of two machines
    assert str(init_context("cuda:1").device) == "cuda:1"
    assert used == joined == ["cuda:1", "cuda:1"]
    set_processes(monkeypatch, 2, 3, 3)
    with pytest.raises(ValueError, match=r"device: found 2 GPUs, expected one for each .* --nproc_per_node=2 or"):
        init_context("cuda")


def test_scripts_check_the_name(tmp_path):
    argv = ["--videos", "v", "--out", str(tmp_path), "--device", "gpu"]
    with pytest.raises(ValueError, match="argument --device: found 'gpu', expected auto, cpu, cuda or cuda:N"):
        extract_features.main(argv)
    argv = ["--benchmark", "tvsum", "--annotations", "a.mat", "--features", "f", "--device", "gpu"]
    argv += ["--config", str(ROOT / "configs/mini.yaml"), "--pretrained_model", "m.pth"]
    with pytest.raises(ValueError, match="^device: found 'gpu', expected auto, cpu, cuda or cuda:N"):
        eval_tvsum_summe.main(argv)


def test_scripts_refuse_a_missing_gpu(set_gpus, mini_videos, tmp_path):
    set_gpus(1)
    argv = ["--videos", str(mini_videos / "videos"), "--out", str(tmp_path), "--device", "cuda:1"]
    argv += ["--blip", str(mini_videos / "frame_encoder.pth")]
    with pytest.raises(ValueError, match="device: found cuda:1, expected N below 1, the number of GPUs"):
        extract_features.main(argv)
