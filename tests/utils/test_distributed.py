import json
import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT
from utils import distributed

STEP = dict(SLURM_PROCID="5", SLURM_LOCALID="1", SLURM_JOB_ID="31007", SLURM_STEP_NUM_TASKS="8")


def test_slurm_variables():
    step = dict(SLURM_STEP_NODELIST="gpu[003-004],login", SLURM_NTASKS="8", SLURM_STEP_TASKS_PER_NODE="4(x2)")
    variables = distributed._slurm_environment(STEP | step)
    ranks = dict(RANK="5", WORLD_SIZE="8", LOCAL_RANK="1", LOCAL_WORLD_SIZE="4")
    assert variables == ranks | dict(MASTER_ADDR="gpu003", MASTER_PORT="31007")
    with_address = distributed._slurm_environment(STEP | dict(MASTER_ADDR="10.0.0.7", MASTER_PORT="29500"))
    assert (with_address["MASTER_ADDR"], with_address["MASTER_PORT"]) == ("10.0.0.7", "29500")
    older = {name: value for name, value in STEP.items() if name != "SLURM_STEP_NUM_TASKS"} | dict(SLURM_NTASKS="4")
    assert distributed._slurm_environment(older)["WORLD_SIZE"] == "4"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        dict(SLURM_JOB_ID="1", SLURM_NTASKS="4"),  # inside salloc, without srun
        dict(SLURM_JOB_ID="1", SLURM_NTASKS="4", SLURM_PROCID="0", ENVIRONMENT="BATCH"),  # the batch script itself
        dict(SLURM_JOB_ID="1", SLURM_NTASKS="1", SLURM_PROCID="0", SLURM_STEP_NUM_TASKS="1"),
    ],
)
def test_single_process_in_a_slurm_job(variables):
    assert distributed._slurm_environment(variables) == {}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("node1", "node1"), ("gpu[003-005,9],x1", "gpu003"), ("a-b7,c", "a-b7"), ("n[12]", "n12")],
)
def test_first_host(nodes, first):
    assert distributed._first_host(nodes) == first


def run_two_tasks(program):
    """Run a program in two processes that find each other only through SLURM's variables; returns their outputs."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM", "MASTER", "RANK", "WORLD", "LOCAL"))
    }
    port = 20000 + os.getpid() % 20000
    tasks = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            env=env
            | dict(
                SLURM_PROCID=str(rank),
                SLURM_LOCALID=str(rank),
                SLURM_STEP_NUM_TASKS="2",
                SLURM_JOB_ID=str(port - 20000),
            ),
        )
        for rank in range(2)
    ]
    return [task.communicate(timeout=120)[0].strip() for task in tasks]


def test_two_srun_tasks_communicate():
    program = (
        "import torch; from utils import distributed as d; w = d.init_context('cpu'); "
        "print(w.rank, w.world_size, w.local_rank, d.all_reduce_mean(torch.tensor([w.rank + 1.0]), w).item(), "
        "d.gather_objects(w.rank * 10, w)); d.shutdown()"
    )
    assert run_two_tasks(program) == ["0 2 0 1.5 [0, 10]", "1 2 1 1.5 None"]


def test_values_that_must_be_the_same_and_buffers():
    """A value that differs is an error of all processes; DistributedDataParallel leaves buffers as they are."""
    program = """
import platform, torch
from utils import distributed as d
world = d.init_context("cpu")
platform.node = lambda: f"gpu{world.rank}"
d.require_same(("a file", 3), "vt.pth: pretrained_clip", "copy it", world)
for state in (f"state {world.rank}", world.rank):
    try:
        d.require_same(state, "vt.pth: pretrained_clip", "copy it; or not", world)
    except ValueError as error:
        print(error)
model = d.wrap_ddp(torch.nn.BatchNorm1d(2, affine=True).eval(), world)
model.module.running_mean.fill_(world.rank)
weight = model.module.weight
model(torch.full((1, 2), 1.0 + world.rank)).sum().backward()
print(model.module.running_mean.tolist(), weight.grad.tolist())
d.shutdown()
"""
    errors = [
        f"vt.pth: pretrained_clip: found {states[1]} on node gpu1 (process 1), expected {states[0]} as on node gpu0 "
        "(process 0); copy it; or not"
        for states in (("state 0", "state 1"), (0, 1))
    ]
    for rank, output in enumerate(run_two_tasks(program)):
        *lines, last = output.splitlines()
        assert lines == errors
        mean, gradient = map(json.loads, last.replace("] [", "]\n[").splitlines())
        assert mean == [float(rank)] * 2 and gradient == pytest.approx([1.0, 1.0], abs=1e-4)


def test_peer_lost_between_the_first_two_steps():
    """DistributedDataParallel's own error in the second forward pass is converted, the module's is not."""
    program = """
import os, signal, time, torch
from torch.nn.parallel import DistributedDataParallel
from utils import distributed as d
from utils.errors import PeerFailure
world = d.init_context("cpu")
pids = d.gather_objects(os.getpid(), world)
model = d.wrap_ddp(torch.nn.Linear(2, 2), world)
model(torch.ones(1, 2)).sum().backward()
if world.rank:
    time.sleep(60)
os.kill(pids[1], signal.SIGKILL)
for forward, features in ((model, torch.ones(1, 2)), (model.module, torch.ones(1, 3))):
    try:
        with d.peer_failures(raised_by=DistributedDataParallel.__module__):
            forward(features)
    except (PeerFailure, RuntimeError) as error:
        print(type(error).__name__, flush=True)
os._exit(0)
"""
    assert run_two_tasks(program) == ["PeerFailure\nRuntimeError", ""]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_raises():
    with pytest.raises(ValueError, match="device: found no GPU"):
        distributed.init_context("cuda")


def test_plain_process():
    world = distributed.init_context("cpu")
    assert (world.rank, world.world_size, world.is_main, world.device.type) == (0, 1, True, "cpu")
    assert distributed.gather_objects("x", world) == ["x"]
    distributed.require_same("x", "a: b", "c", world)
