"""Processes of a run: torch.distributed.run, srun, or one plain process."""

import contextlib
import dataclasses
import datetime
import os
import re
import subprocess
import time
import uuid

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from utils import interrupt
from utils.watch import Watch


@dataclasses.dataclass(frozen=True)
class World:
    """This process's place in the run."""

    rank: int
    local_rank: int
    size: int
    device: torch.device

    @property
    def is_main(self):
        return self.rank == 0


def _slurm_environment(env):
    """Translate srun's variables into those of torch.distributed.run; {} where this is not a step of several tasks."""
    if "SLURM_PROCID" not in env:
        return {}
    # A batch script itself sees SLURM_NTASKS too, but is one process: there only a step's own count is believed.
    size = env.get("SLURM_STEP_NUM_TASKS") or ("" if env.get("ENVIRONMENT") == "BATCH" else env.get("SLURM_NTASKS"))
    if not size or int(size) <= 1:
        return {}
    address = env.get("MASTER_ADDR") or env.get("SLURM_LAUNCH_NODE_IPADDR") or "127.0.0.1"
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST")
    if "MASTER_ADDR" not in env and nodes:
        address = _first_host(nodes)
    # Jobs and steps that share a node must not meet at one port.
    number = int(env.get("SLURM_JOB_ID", "0")) + 7919 * int(env.get("SLURM_STEP_ID", "0"))
    port = env.get("MASTER_PORT") or str(20000 + number % 20000)
    return dict(
        RANK=env["SLURM_PROCID"],
        WORLD_SIZE=size,
        LOCAL_RANK=env.get("SLURM_LOCALID", "0"),
        LOCAL_WORLD_SIZE=re.match(r"\d+", env.get("SLURM_STEP_TASKS_PER_NODE") or "1")[0],  # such as 4(x2)
        MASTER_ADDR=address,
        MASTER_PORT=port,
    )


def _first_host(nodes):
    """First host of a SLURM node list such as `gpu[003-005,9],login1`."""
    try:
        shown = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
        return shown.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        name = re.match(r"([^\[,]+)(?:\[(\d+))?", nodes)
        return name.group(1) + (name.group(2) or "")


def pick_device(device):
    """Choose the kind of device for `auto`, `cpu` or `cuda`.

    Raises:
        ValueError: `cuda` is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: found no GPU that PyTorch can use, expected one for device cuda")
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def start(device="auto", *, backend=None, timeout=datetime.timedelta(hours=2)):
    """Join the run's processes, if there are several.

    Args:
        device: `auto`, `cpu` or `cuda`.
        backend: `gloo` or `nccl`; None takes the one of the device.
        timeout: how long processes wait for each other; by default for the first one to score captions.
    Returns:
        World
    Raises:
        ValueError: `cuda` is asked for and there is none, or a node has more processes than GPUs.
    """
    env = os.environ
    by_srun = {} if "RANK" in env else _slurm_environment(env)
    env.update(by_srun)
    rank, size = int(env.get("RANK", "0")), int(env.get("WORLD_SIZE", "1"))
    local_rank = int(env.get("LOCAL_RANK", "0"))
    device = pick_device(device).type
    if device == "cuda":
        # srun --gpus-per-task shows each process just its own GPU.
        gpu = 0 if by_srun and torch.cuda.device_count() == 1 else local_rank
        if gpu >= torch.cuda.device_count():
            raise ValueError(
                f"device: found {torch.cuda.device_count()} GPUs, expected one for each process of this machine "
                f"(this is number {local_rank}); use --nproc_per_node={torch.cuda.device_count()} or --device cpu"
            )
        torch.cuda.set_device(gpu)
    place = torch.device(device, gpu) if device == "cuda" else torch.device(device)
    if size > 1:
        backend = backend or ("nccl" if device == "cuda" else "gloo")
        on_gpu = place if backend == "nccl" else None
        with interrupt.by_default():  # there is nothing to save yet, and waits here hear of no signal
            store = _own_store(rank, size, timeout)
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout, device_id=on_gpu)
            _run.host = None if backend == "gloo" else dist.new_group(backend="gloo", timeout=timeout)
        _run.watch = Watch(store, rank, size)
    return World(rank, local_rank, size, place)


def _own_store(rank, size, timeout):
    """Meet the run's other processes, and none of an earlier start of theirs.

    A launcher that restarts its processes gives them the store that they had before, with the addresses of the dead in
    it. So the first process draws a name, each other one answers under it with one of its own, and only a list with
    all of these is believed.

    Returns:
        `torch.distributed.Store` in which no earlier start has written.
    """
    store, _, _ = next(rendezvous("env://", rank, size, timeout=timeout))
    own = uuid.uuid4().hex
    if rank == 0:
        store.set("leader", own)
        store.wait([f"{own}/{other}" for other in range(1, size)], timeout)
        store.set(f"{own}/all", ",".join(store.get(f"{own}/{other}").decode() for other in range(1, size)))
        return dist.PrefixStore(own, store)
    end = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < end:
        leader = store.get("leader").decode()
        store.set(f"{leader}/{rank}", own)
        if store.check([f"{leader}/all"]) and own in store.get(f"{leader}/all").decode().split(","):
            return dist.PrefixStore(leader, store)
        time.sleep(0.05)
    raise OSError(f"the run's first process was not met within {timeout}")


class _Run:
    """What belongs to the process group of this process: None while there is none."""

    host = None  # group whose tensors lie on the host, where the default one is not such
    watch = None


_run = _Run()


def stop(together=True):
    """Leave the process group, if there is one.

    Args:
        together: wait for the others, which leave too.
    """
    if not dist.is_initialized():
        return
    _run.watch.end()
    if together:
        barrier()
        dist.destroy_process_group()
    _run.watch = _run.host = None


def tell_others(error):
    """Tell the launcher, if there is one, and the run's other processes of the error that ends this one."""
    if os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with contextlib.suppress(OSError):
            get_error_handler().record_exception(error)
    if _run.watch:
        _run.watch.report(str(error))


def failure_of_another(error):
    """Turn the broken connection that another process's end leaves here into an `OSError` that says so.

    Under a launcher this waits for its signal first: it is to find, and to report, the process that failed.
    """
    seconds = time.monotonic() + 10
    while "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() < seconds and not interrupt.requested():
        time.sleep(0.1)
    reason = (_run.watch and _run.watch.reason) or str(error).splitlines()[0][:200]
    return OSError(f"another process of this run failed ({reason})")


def barrier():
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()


@contextlib.contextmanager
def local_main_first(world):
    """Let the first process of each machine do something (fill a cache) before the others do it too."""
    if world.local_rank != 0:
        barrier()
    try:
        yield
    finally:
        if world.local_rank == 0:
            barrier()  # after a failure too: the others then meet the same error, not a broken connection


def gather_objects(value, world):
    """Collect one picklable value per process: a list of `world.size` on the first process, None on the others."""
    if world.size == 1:
        return [value]
    gathered = [None] * world.size if world.is_main else None
    dist.gather_object(value, gathered, dst=0, group=_run.host)
    return gathered


def from_main(value, world):
    """Give every process the first one's picklable value."""
    if world.size == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, group=_run.host)
    return values[0]


def any_of(flag, world):
    """Tell every process whether the flag is set on any; does not wait for a GPU."""
    if world.size == 1:
        return flag
    value = torch.tensor([int(flag)])
    dist.all_reduce(value, dist.ReduceOp.MAX, group=_run.host)
    return bool(value)


def parallel(model, world):
    """Wrap a model so that the processes average its gradients; one process takes it as it is."""
    if world.size == 1:
        return model
    # Without `device_ids`, which would copy what stays on the host (lengths) to the device.
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def total(values, world):
    """Add a tensor over the processes."""
    if world.size > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def maximum(values, world):
    """Take the largest of a tensor's values over the processes."""
    if world.size > 1:
        values = values.clone()
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def mean(values, world):
    """Average a tensor over the processes."""
    return total(values, world) / world.size


class _Gathered(torch.autograd.Function):
    """Rows of all processes; backward, each process gets what all of them ask of its rows."""

    @staticmethod
    def forward(ctx, rows, world):
        ctx.world = world
        parts = [torch.empty_like(rows) for _ in range(world.size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(ctx.world.size)[ctx.world.rank], None


def gather_rows(rows, world):
    """Put the processes' tensors (n, …), of one shape, one after another: (n · size, …), with gradients to each.

    A loss over the gathered rows that every process computes, averaged as DistributedDataParallel does, has the
    gradient of one process with all rows.
    """
    return rows if world.size == 1 else _Gathered.apply(rows, world)
