"""Measurement of time, and of this machine's limits: rates of matrix products, and memory bandwidth."""

import platform
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from benchmarks.records import MachineDescription

Result = TypeVar("Result")


def time_call(function: Callable[[], Result]) -> tuple[Result, float]:
    """Call a function once: its result and the elapsed seconds; does not wait for a GPU."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def measure_seconds(function: Callable[[], object], device: torch.device, repeat: int = 3, warm_up: int = 1) -> float:
    """Measure the median time of a call in seconds, host sync included.

    Args:
        function: to call.
        device: that the function uses.
        repeat: number of measured calls.
        warm_up: number of calls before these.
    """
    times = []
    for _ in range(warm_up + repeat):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[warm_up:])


class Comparison(NamedTuple):
    """Times of project and peer.

    Attributes:
        project_seconds: median.
        peer_seconds: median.
        ratio: median of the rounds' ratios, peer's seconds / project's seconds.
    """

    project_seconds: float
    peer_seconds: float
    ratio: float


def measure_alternately(
    project: Callable[[], object], peer: Callable[[], object], device: torch.device, rounds: int
) -> Comparison:
    """Measure two functions in alternation, so that a drift of the machine's speed affects both equally.

    Args:
        project: function of the project.
        peer: function that does the same.
        device: that both use.
        rounds: number of calls of each, after one that is not measured.
    """
    functions = (project, peer)
    for function in functions:
        function()
    pairs = [[measure_seconds(function, device, 1, warm_up=0) for function in functions] for _ in range(rounds)]
    project_times, peer_times = zip(*pairs)
    ratio = statistics.median(peer_time / project_time for project_time, peer_time in pairs)
    return Comparison(statistics.median(project_times), statistics.median(peer_times), ratio)


def measure_linear_seconds(
    rows: int, inputs: int, outputs: int, device: torch.device, dtype: torch.dtype, *, backward: bool
) -> float:
    """Measure the matrix products of one linear layer.

    Args:
        rows: number of rows of the input.
        inputs: columns of the input.
        outputs: columns of the output.
        device: device of the tensors.
        dtype: dtype of the tensors.
        backward: add the two products of the backward pass.
    """
    x = torch.randn(rows, inputs, device=device, dtype=dtype)
    weight = torch.randn(outputs, inputs, device=device, dtype=dtype)
    total = measure_seconds(lambda: torch.mm(x, weight.t()), device)
    if backward:
        gradient = torch.randn(rows, outputs, device=device, dtype=dtype)
        total += measure_seconds(lambda: torch.mm(gradient, weight), device)
        total += measure_seconds(lambda: torch.mm(gradient.t(), x), device)
    return total


def measure_product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the rate of a large square matrix product in operations per second."""
    size = 8192 if device.type == "cuda" else 2048
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / measure_seconds(lambda: matrix @ matrix, device, repeat=5)


def measure_bandwidth(device: torch.device) -> float:
    """Measure the rate of reading memory in bytes per second."""
    x = torch.ones(2**26, device=device)
    return 4 * x.numel() / measure_seconds(x.sum, device, repeat=5)


def measure_peak_bytes(function: Callable[[], object], device: torch.device) -> int | None:
    """Measure the peak of the memory that PyTorch has allocated on a GPU during a call; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    function()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def describe_machine(device: torch.device) -> MachineDescription:
    """Describe the machine and the version of PyTorch."""
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return MachineDescription(
        processor=processor,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        isa=torch.backends.cpu.get_cpu_capability(),
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    )
