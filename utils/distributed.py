"""The process group of a run: started by torch.distributed.run or srun, or a single process."""

import contextlib
import dataclasses
import datetime
import functools
import inspect
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from utils import interrupt
from utils.device import setup_device
from utils.errors import PeerFailure, raising_module

P = ParamSpec("P")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class DistContext:
    """Rank of this process, number of processes, and this process's device."""

    rank: int
    local_rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


_host_group: dist.ProcessGroup | None = None  # gloo group for tensors on the host, if the default group is NCCL's


@contextlib.contextmanager
def peer_failures(*, raised_by: str = "") -> Iterator[None]:
    """Convert errors of broken collectives within the block to `PeerFailure`, with their whole message.

    Args:
        raised_by: name of the module whose errors are converted; by default, those of all modules are.
    """
    try:
        yield
    except RuntimeError as error:
        # NCCL raises dist.DistError, gloo plain RuntimeError.
        if not dist.is_initialized() or (type(error) is not RuntimeError and not isinstance(error, dist.DistError)):
            raise
        if raised_by and raising_module(error) != raised_by:
            raise
        raise PeerFailure(f"another process of this run, or a collective, failed ({error})") from error


def _collective(function: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with peer_failures():
            return function(*args, **kwargs)

    return wrapped


def _slurm_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Translate srun's variables into those of torch.distributed.run; {} unless this is a step of several tasks."""
    if "SLURM_PROCID" not in env:
        return {}
    # A batch script has SLURM_NTASKS too, but is one process: only a step's own count is used there.
    size = env.get("SLURM_STEP_NUM_TASKS") or ("" if env.get("ENVIRONMENT") == "BATCH" else env.get("SLURM_NTASKS"))
    if not size or int(size) <= 1:
        return {}
    address = env.get("MASTER_ADDR") or env.get("SLURM_LAUNCH_NODE_IPADDR") or "127.0.0.1"
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST")
    if "MASTER_ADDR" not in env and nodes:
        address = _first_host(nodes)
    # Jobs and steps that share a node must not share a port.
    number = int(env.get("SLURM_JOB_ID", "0")) + 7919 * int(env.get("SLURM_STEP_ID", "0"))
    tasks_per_node = re.match(r"\d+", env.get("SLURM_STEP_TASKS_PER_NODE", ""))  # such as 4(x2)
    return dict(
        RANK=env["SLURM_PROCID"],
        WORLD_SIZE=size,
        LOCAL_RANK=env.get("SLURM_LOCALID", "0"),
        LOCAL_WORLD_SIZE=tasks_per_node[0] if tasks_per_node else "1",
        MASTER_ADDR=address,
        MASTER_PORT=env.get("MASTER_PORT") or str(20000 + number % 20000),
    )


def is_first_rank() -> bool:
    """Whether this process is the first of its run; callable before `init_context`."""
    env = os.environ
    return (env["RANK"] if "RANK" in env else _slurm_environment(env).get("RANK", "0")) == "0"


def _first_host(nodes: str) -> str:
    """First host of a SLURM node list such as `gpu[003-005,9],login1`."""
    try:
        listed = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
        return listed.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        prefix, number = re.findall(r"^([^\[,]+)(?:\[(\d+))?", nodes)[0]
        return prefix + number


def init_context(
    device: str = "auto",
    *,
    tf32: bool = False,
    backend: str | None = None,
    timeout: datetime.timedelta = datetime.timedelta(hours=2),
) -> DistContext:
    """Set up the device, and join the run's process group, if there are several processes.

    Args:
        device: `auto`, `cpu`, `cuda` (a GPU for each process of a machine), or `cuda:N` (for one process).
        tf32: see `utils.device.setup_device`.
        backend: `gloo` or `nccl`; None: the one of the device.
        timeout: timeout of collectives; long enough for the first process to score captions.
    Raises:
        ValueError: there is no such GPU, or a machine has more processes than GPUs, or several processes and `cuda:N`.
        PeerFailure: the other processes cannot be reached.
    """
    env = os.environ
    from_srun = {} if "RANK" in env else _slurm_environment(env)
    env.update(from_srun)
    rank, size = int(env.get("RANK", "0")), int(env.get("WORLD_SIZE", "1"))
    local_rank = int(env.get("LOCAL_RANK", "0"))
    target = setup_device(device, tf32=tf32)
    if target.type == "cuda":
        local_size = max(local_rank + 1, int(env.get("LOCAL_WORLD_SIZE", "1")))
        if target.index is None:
            # srun --gpus-per-task makes only one GPU visible to each process.
            target = torch.device("cuda", 0 if from_srun and torch.cuda.device_count() == 1 else local_rank)
        elif local_size > 1:
            raise ValueError(
                f"device: found {device} for {local_size} processes of this machine, expected cuda, which gives each "
                "process its own GPU; use --device cuda or --nproc_per_node=1"
            )
        if target.index >= torch.cuda.device_count():
            raise ValueError(
                f"device: found {torch.cuda.device_count()} GPUs, expected one for each process of this machine "
                f"(this is number {local_rank}); use --nproc_per_node={torch.cuda.device_count()} or --device cpu"
            )
        torch.cuda.set_device(target)
    if size > 1:
        _init_process_group(backend or ("nccl" if target.type == "cuda" else "gloo"), rank, size, timeout, target)
    return DistContext(rank, local_rank, size, target)


@_collective
def _init_process_group(backend: str, rank: int, size: int, timeout: datetime.timedelta, device: torch.device) -> None:
    global _host_group
    with interrupt.default_handlers():  # nothing to save yet
        store, _, _ = next(rendezvous("env://", rank, size, timeout=timeout))
        # Restarted processes get the same store from the launcher; it still has the addresses of their predecessors.
        store = dist.PrefixStore(f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        device_id = device if backend == "nccl" else None
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout, device_id=device_id)
        if backend != "gloo":
            _host_group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timeout))


def shutdown() -> None:
    """Leave the process group, if there is one, after a barrier."""
    if dist.is_initialized():
        barrier()
        dist.destroy_process_group()


def report_failure(error: BaseException, *, with_traceback: bool) -> None:
    """Record the error that ends this process for the launcher's report, if there is a launcher.

    Args:
        error: the error, which is being handled.
        with_traceback: False shortens it to its message.
    """
    if os.environ.get("TORCHELASTIC_ERROR_FILE"):
        if not with_traceback:
            error.__suppress_context__ = True
            error = error.with_traceback(None)
        with contextlib.suppress(OSError):
            get_error_handler().record_exception(error)


@_collective
def barrier() -> None:
    """Wait until every process has reached the barrier."""
    if dist.is_initialized():
        dist.barrier()


@contextlib.contextmanager
def local_main_first(context: DistContext) -> Iterator[None]:
    """Let the first process of each machine run the block (fill a cache) before the others."""
    if context.local_rank != 0:
        barrier()
    try:
        yield
    finally:
        if context.local_rank == 0:
            barrier()  # also after a failure, so that the others raise the same error


@_collective
def gather_objects(value: T, context: DistContext) -> list[T] | None:
    """Gather one picklable value per process: a list of `world_size` on the first process, None on the others."""
    if context.world_size == 1:
        return [value]
    gathered: list[Any] | None = [None] * context.world_size if context.is_main else None
    dist.gather_object(value, gathered, dst=0, group=_host_group)
    return gathered


@_collective
def broadcast_object(value: T, context: DistContext) -> T:
    """Broadcast the first process's picklable value."""
    if context.world_size == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, group=_host_group)
    return values[0]


def require_same(value: T, subject: str, remedy: str, context: DistContext) -> None:
    """Require a value to be the same on all processes, which would otherwise wait for different collectives.

    Args:
        value: picklable.
        subject: beginning of the message, `path: field`.
        remedy: end of the message.
        context: rank and number of processes.
    Raises:
        ValueError: on every process, if it differs; the message names the node.
    """
    gathered = broadcast_object(gather_objects((platform.node(), value), context), context)
    assert gathered is not None
    first_node, expected = gathered[0]
    for rank, (node, other) in enumerate(gathered):
        if other != expected:
            raise ValueError(
                f"{subject}: found {other} on node {node} (process {rank}), expected {expected} as on node "
                f"{first_node} (process 0); {remedy}"
            )


@_collective
def any_rank(flag: bool, context: DistContext) -> bool:
    """Whether the flag is set on any process; without a host sync on GPUs."""
    if context.world_size == 1:
        return flag
    value = torch.tensor([int(flag)])
    dist.all_reduce(value, dist.ReduceOp.MAX, group=_host_group)
    return bool(value)


@_collective
def wrap_ddp(model: torch.nn.Module, context: DistContext) -> torch.nn.Module:
    """Wrap a model in DistributedDataParallel; with one process, return it unchanged."""
    if context.world_size == 1:
        return model
    # All buffers are constants. PyTorch has renamed the option, and warns of the former name.
    has_new_name = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    options: Any = {"forward_sync_buffers" if has_new_name else "broadcast_buffers": False}
    # Without `device_ids`, which would copy the inputs that stay on the host (mask, caption ids) to the device.
    return DistributedDataParallel(model, gradient_as_bucket_view=True, **options)


@_collective
def all_reduce_sum(values: torch.Tensor, context: DistContext) -> torch.Tensor:
    """Sum a tensor over the processes, elementwise."""
    if context.world_size > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


@_collective
def all_reduce_max(values: torch.Tensor, context: DistContext) -> torch.Tensor:
    """Maximum of a tensor over the processes, elementwise."""
    if context.world_size > 1:
        values = values.clone()
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def all_reduce_mean(values: torch.Tensor, context: DistContext) -> torch.Tensor:
    """Average a tensor over the processes, elementwise."""
    return all_reduce_sum(values, context) / context.world_size


class _AllGather(torch.autograd.Function):
    """All-gather of rows; the backward pass sums all processes' gradients of this process's rows."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, context: DistContext) -> torch.Tensor:
        ctx.context = context
        parts = [torch.empty_like(rows) for _ in range(context.world_size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(ctx.context.world_size)[ctx.context.rank], None


@_collective
def all_gather_with_grad(rows: torch.Tensor, context: DistContext) -> torch.Tensor:
    """Concatenate the processes' tensors (n, …) of equal shape: (n · world_size, …), differentiable.

    If every process computes the same loss over the gathered rows, DistributedDataParallel's averaged gradient is that
    of one process with all rows.
    """
    return rows if context.world_size == 1 else _AllGather.apply(rows, context)
