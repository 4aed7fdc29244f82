"""`python -m benchmarks.gpu` on the CPU at toy size: every check runs, and neither failures nor gaps are silent."""

import os
import pathlib
import subprocess
import sys
import warnings

import pytest
import torch

from benchmarks import checks, gpu, host_syncs, machine, model_checks, records, report, two_processes, user_commands
from benchmarks.checks import Check, NotApplicable
from benchmarks.records import Row
from tests.conftest import ROOT
from utils.distributed import DistContext

CPU = torch.device("cpu")
GROUPS = {
    "model": ["golden-fp32", "golden-bf16", "syncs-trainer", "syncs-step", "syncs-generate"],
    "speed": [
        *("decode-fp32", "decode-bf16", "decode-bf16-large", "step-fp32", "step-bf16", "step-bf16-large"),
        "projections",
    ],
    "processes": ["gradients-all-gpus", "gradients-shared-gpu"],
    "commands": ["train", "evaluate", "metrics", "report"],
    "videos": ["extract", "train-vt-clip", "summarize", "app"],
    "compiled": ["train-compile", "train-all-gpus", "step-bf16-compile", "step-bf16-large-compile"],
}
REQUIRED = {"data", "videos", "train"}  # checks that others require


def run_gpu_command(path, *names):
    gpu.main(["--device", "cpu", "--size", "toy", "--out", str(path), "--only", *names])
    return records.read_gpu_results(path)


def test_every_check_is_run_by_a_test_and_follows_those_that_it_requires():
    listed = gpu.list_gpu_checks(CPU, "full", pathlib.Path("unused"))
    names = [check.name for check in listed]
    assert sorted({name for group in GROUPS.values() for name in group} | REQUIRED) == sorted(names)
    for i, check in enumerate(listed):
        assert set(check.requires) <= set(names[:i]), check.name
    assert [check.name for check in gpu.list_gpu_checks(CPU, "toy", pathlib.Path("unused"))] == names


@pytest.mark.parametrize(
    "group", ["model", "speed", *(pytest.param(name, marks=pytest.mark.soak) for name in list(GROUPS)[2:])]
)
def test_checks_pass_on_the_cpu(group, tmp_path, capsys):
    results = run_gpu_command(tmp_path / "results.json", *GROUPS[group])
    names = {check.name for check in results.checks}
    assert set(GROUPS[group]) <= names <= {*GROUPS[group], *REQUIRED, "decode-bf16-large"}
    assert all(check.status == "passed" and check.rows for check in results.checks)
    output = capsys.readouterr().out
    assert all(f"| {row.measurement} |" in output for check in results.checks for row in check.rows)
    assert output.splitlines()[-1].endswith("no problems")


def test_projections_are_computed_from_the_measured_rows():
    step = Row(measurement="step", project_value=0.36, peer_value=0.72, unit="s", peer_name="peer")
    training = model_checks.project_training(step, 16, 8000)
    assert training.project_value == pytest.approx(500 * 56 * 0.36 / 3600) and training.peer_value == pytest.approx(5.6)
    decoding = model_checks.project_decoding(step, 128)
    assert decoding.project_value == pytest.approx(32 * 0.36 / 60) and decoding.unit == "min"


def test_operations_of_a_training_step_are_those_that_pytorch_counts():
    """PyTorch counts all products but the in-place one of the output layer's gradient, and attention differently."""
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.golden import GOLDEN_MED_CONFIG
    from benchmarks.training import count_step_operations
    from benchmarks.workload import build_full_size_model, draw_captions, draw_videos, get_blip_decoder

    model = build_full_size_model(med_config=GOLDEN_MED_CONFIG)
    embeddings, mask, labels = draw_videos([30, 30])
    ids = draw_captions([20, 20], model)
    with FlopCounterMode(display=False) as counter:
        sum(model(embeddings, mask, labels, ids)).backward()
    operations = count_step_operations(model, [30, 30], [20, 20], "published")
    decoder = get_blip_decoder(model).config
    not_counted = 2 * (2 * 19) * decoder.hidden_size * decoder.vocab_size
    assert operations == pytest.approx(counter.get_total_flops() + not_counted, rel=0.01)


def pass_check():
    return [Row(measurement="a measurement", project_value=1.0, unit="s")]


def fail_check():
    raise FileNotFoundError("file.json: results: no such file")


def find_one_gpu():
    raise NotApplicable("one GPU")


def test_failures_and_gaps_are_rows_and_the_exit_status(tmp_path, monkeypatch, capsys):
    listed = [
        Check("first", pass_check),
        Check("broken", fail_check),
        Check("without package", pass_check, packages=("json", "no_such_package")),
        Check("after broken", pass_check, requires=("broken",)),
        Check("two GPUs", find_one_gpu),
        Check("empty", list),
        Check("last", pass_check),
    ]
    monkeypatch.setattr(gpu, "list_gpu_checks", lambda device, size, folder: listed)
    path = tmp_path / "new folder/results.json"
    argv = ["--device", "cpu", "--out", str(path)]
    with pytest.raises(SystemExit) as caught:
        gpu.main(argv)
    assert caught.value.code == 1
    output = capsys.readouterr()
    expected = {
        "first": ("passed", None),
        "broken": ("failed", "FileNotFoundError: file.json: results: no such file"),
        "without package": ("not run", "package no_such_package is missing"),
        "after broken": ("not run", "requires the check 'broken', which has not passed"),
        "two GPUs": ("not applicable", "one GPU"),
        "empty": ("failed", "AssertionError: no measurement"),
        "last": ("passed", None),
    }
    results = records.read_gpu_results(path)
    assert {check.name: (check.status, check.message) for check in results.checks} == expected
    assert "Traceback" in output.err and "in fail_check" in output.err
    for name, (status, message) in expected.items():
        assert message is None or f"- **{name}**: {status}, {message}\n" in output.out
    problems = "4 problems: broken, without package, after broken, empty"
    assert output.out.splitlines()[-1].startswith(f"{path}: 7 checks in ") and problems in output.out

    for problem in ("broken", "without package", "after broken", "empty"):
        with pytest.raises(SystemExit):
            gpu.main([*argv, "--only", problem])
    gpu.main([*argv, "--only", "first", "two GPUs"])  # other hardware is no problem
    with pytest.raises(ValueError, match="--only: found 'second', expected some of first, broken, "):
        gpu.main([*argv, "--only", "second"])


def test_a_missing_package_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(SystemExit) as caught:
        run_gpu_command(tmp_path / "results.json", "extract", "syncs-generate")
    assert caught.value.code == 1
    results = records.read_gpu_results(tmp_path / "results.json")
    assert [(check.name, check.status, check.message) for check in results.checks] == [
        ("videos", "not run", "package av, open_clip is missing"),
        ("extract", "not run", "package av, open_clip is missing"),
        ("syncs-generate", "passed", None),
    ]


def test_no_module_of_the_command_requires_an_optional_package():
    program = (
        "import pathlib, sys, torch\n"
        "for name in ('av', 'gradio', 'h5py', 'matplotlib', 'open_clip', 'pycocoevalcap', 'scipy', 'timm'):\n"
        "    sys.modules[name] = None\n"
        "from benchmarks.gpu import list_gpu_checks\n"
        "print(len(list_gpu_checks(torch.device('cpu'), 'full', pathlib.Path('unused'))))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and int(done.stdout) > 20, done.stderr


def test_a_check_that_hangs_ends_the_process_and_is_in_the_results(tmp_path):
    program = (
        "import sys, time\n"
        "from benchmarks import gpu\n"
        "from benchmarks.checks import Check\n"
        "from benchmarks.records import Row\n"
        "row = Row(measurement='a measurement', project_value=1, unit='s')\n"
        "listed = [Check('first', lambda: [row]), Check('hangs', lambda: time.sleep(100), time_limit=1)]\n"
        "gpu.list_gpu_checks = lambda device, size, folder: listed\n"
        "gpu.main(['--device', 'cpu', '--out', sys.argv[1]])\n"
    )
    argv = [sys.executable, "-c", program, str(tmp_path / "results.json")]
    env = os.environ | dict(TMPDIR=str(tmp_path))  # the process leaves its temporary folder
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Timeout" in done.stderr
    first, hanging = records.read_gpu_results(tmp_path / "results.json").checks
    assert first.status == "passed" and first.rows
    assert hanging.is_problem and hanging.message == "did not end: the process exceeded 1 s or was killed"


def test_failed_commands_name_their_error(capsys):
    with pytest.raises(user_commands.CommandFailed) as caught:
        user_commands.run_python(["train_v2vt_sum.py", "--no_such_flag"])
    expected = "train_v2vt_sum.py: exit status 2: error: the following arguments are required: --config"
    assert str(caught.value) == expected
    assert "python train_v2vt_sum.py --no_such_flag: exit status 2" in capsys.readouterr().err
    with pytest.raises(user_commands.CommandFailed, match="-c import time.*: exceeded 1 s: no output"):
        user_commands.run_python(["-c", "import time; time.sleep(60)"], seconds=1)
    raised = "[rank1]: Traceback (most recent call last):\n[rank1]: ValueError: found 1\nW1 Sending SIGTERM\n"
    assert user_commands.describe_failure(["-m", "x"], "exit status 1", raised).endswith(": ValueError: found 1")


def test_results_without_out_are_those_of_a_gpu():
    for argv in (["--device", "cpu"], ["--size", "toy"], ["--only", "data"]):
        with pytest.raises(ValueError, match="--out: found nothing, expected a file for results of a CPU"):
            gpu.main(argv)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device: found no GPU that PyTorch can use"):
            gpu.main([])


def test_the_document_shows_the_results_of_gpus(tmp_path):
    """The section in the repository is the one that the results in the repository give."""
    copy = tmp_path / "performance.md"
    text = report.PERFORMANCE_DOCUMENT.read_text()
    copy.write_text(text)
    report.update_gpu_section(gpu.GPU_RESULTS_FOLDER, copy)
    assert copy.read_text() == text
    description = records.MachineDescription(processor="CPU", threads=2, torch="2.11.0", isa="AVX2", gpu="NVIDIA H200")
    passed = records.CheckResult(name="first", status="passed", seconds=1.0, rows=pass_check())
    failed = records.CheckResult(name="broken", status="failed", seconds=1.0, message="an error", rows=[])
    results = records.GpuResults(
        machine=description,
        num_gpus=2,
        versions=dict(transformers="5.17.0", code=None),
        size="full",
        date="2026-01-01",
        seconds=2.0,
        checks=[passed, failed],
    )
    records.write_gpu_results(tmp_path / "nvidia-h200.json", results)
    assert records.read_gpu_results(tmp_path / "nvidia-h200.json") == results
    report.update_gpu_section(tmp_path, copy)
    section = copy.read_text().split(report.GPU_BEGIN_MARK)[1].split(report.GPU_END_MARK)[0]
    assert "### 2 x NVIDIA H200\n" in section and "| a measurement | 1 s |" in section
    assert "- **broken**: failed, an error\n" in section and report.NO_GPU_RESULTS not in section
    assert copy.read_text().replace(section, f"\n{report.NO_GPU_RESULTS}\n") == text or gpu.GPU_RESULTS_FOLDER.is_dir()


@pytest.mark.parametrize(
    ("gpu_name", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA A10", None),
    ],
)
def test_peak_rates_of_gpus(monkeypatch, gpu_name, tflops):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: gpu_name)
    monkeypatch.setattr(machine, "measure_product_rate", lambda device, dtype: 1.0)
    peak = machine.find_peak_rate(torch.device("cuda"), torch.bfloat16)
    if tflops is None:
        assert peak == (1.0, "measured large product, bfloat16")
    else:
        assert peak.rate == tflops * 1e12 and peak.source.startswith("data sheet of ")
    assert machine.find_peak_rate(torch.device("cuda"), torch.float32) == (1.0, "measured large product, float32")


def test_compiled_regions_are_counted():
    model = torch.nn.Linear(2, 2)
    assert machine.count_compiled_regions(lambda: model(torch.ones(1, 2))) == 0
    model.compile(backend="eager")
    assert machine.count_compiled_regions(lambda: model(torch.ones(1, 2))) == 1


def test_sync_debug_mode_is_set_and_reset(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with pytest.raises(RuntimeError), host_syncs.sync_debug_mode("error", torch.device("cuda")):
        raise RuntimeError
    with host_syncs.sync_debug_mode("warn", CPU):
        pass
    assert modes == ["error", "default"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for message in ("called a synchronizing CUDA operation", "another", "called a synchronizing CUDA operation"):
            warnings.warn(message, stacklevel=1)
    assert host_syncs.count_syncs(caught) == 2


def test_processes_are_compared_with_one_process(monkeypatch):
    """Without averaged gradients, the comparison of two processes fails."""
    single = two_processes.compare_with_one_process(DistContext(0, 0, 1, CPU))
    assert single["world_size"] == 1 and single["difference"] <= two_processes.WEIGHT_TOLERANCE
    monkeypatch.setattr(two_processes.distributed, "wrap_ddp", lambda model, context: model)
    for name in ("all_reduce_max", "all_reduce_mean"):
        monkeypatch.setattr(two_processes.distributed, name, lambda value, context: value)
    with pytest.raises(AssertionError, match="the weights of 2 processes differ by "):
        two_processes.compare_with_one_process(DistContext(0, 0, 2, CPU))


def test_nccl_needs_several_gpus(monkeypatch, tmp_path):
    commands = user_commands.CommandChecks(tmp_path, "cuda", "full")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    results = checks.run_checks(
        [check for check in commands.list_checks() if check.name == "gradients-all-gpus"], lambda finished: None
    )
    assert [(result.status, result.message) for result in results] == [
        ("not applicable", "one GPU: NCCL needs a GPU for each process")
    ]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert commands.count_processes() == 8
