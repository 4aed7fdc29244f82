"""Measurement of time, and of this machine's limits: rates of matrix products, and memory bandwidth."""

import pathlib
import platform
import re
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.records import MachineDescription
from models.packed_linear import prepacked_linears

Result = TypeVar("Result")
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


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
        measure_seconds(function, device, 1, warm_up=0)
    pairs = [[measure_seconds(function, device, 1, warm_up=0) for function in functions] for _ in range(rounds)]
    project_times, peer_times = zip(*pairs)
    ratio = statistics.median(peer_time / project_time for project_time, peer_time in pairs)
    return Comparison(statistics.median(project_times), statistics.median(peer_times), ratio)


def measure_linear_seconds(
    rows: int, inputs: int, outputs: int, device: torch.device, dtype: torch.dtype, *, backward: bool
) -> float:
    """Measure the matrix products of one linear layer, each by the fastest of PyTorch's kernels.

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
    products = [(x, weight.t())]
    if backward:
        gradient = torch.randn(rows, outputs, device=device, dtype=dtype)
        products += [(gradient, weight), (gradient.t(), x)]
    return sum(measure_product_seconds(left, right) for left, right in products)


@torch.no_grad()
def measure_product_seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    """Measure `left @ right` by the fastest of `torch.mm`, `F.linear` and, on a CPU, a layer with packed weights.

    Args:
        left: (n, k).
        right: (k, m).
    """
    device, transposed = left.device, right.t().contiguous()
    count = 20 if device.type == "cuda" else 1  # between two host syncs, whose time is that of a small product
    layer = nn.Linear(right.shape[0], right.shape[1], device=device, dtype=right.dtype)
    layer.weight.copy_(transposed)

    def measure(multiply: Callable[[], torch.Tensor]) -> float:
        return measure_seconds(lambda: [multiply() for _ in range(count)], device) / count

    seconds = [measure(lambda: torch.mm(left, right)), measure(lambda: F.linear(left, transposed))]
    with prepacked_linears([layer]):
        seconds.append(measure(lambda: layer(left)))
    return min(seconds)


def measure_product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the rate of a large square matrix product in operations per second, see `measure_product_seconds`."""
    size = 8192 if device.type == "cuda" else 2048
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / measure_product_seconds(matrix, matrix)


# Dense products in bf16 with float32 sums, by the vendor's data sheets, in Tflop/s; the first name that is part of the
# GPU's name counts.
PEAK_BF16_TFLOPS = {
    "B200": 2250.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "GH200": 989.0,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A40": 149.7,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}


class PeakRate(NamedTuple):
    """Highest rate of matrix products, in operations per second, and its source."""

    rate: float
    source: str


def find_peak_rate(device: torch.device, dtype: torch.dtype) -> PeakRate:
    """Find the data sheet's rate of bf16 products on a known GPU; otherwise measure that of a large product."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        gpu = torch.cuda.get_device_name(device)
        for name, tflops in PEAK_BF16_TFLOPS.items():
            if re.search(rf"\b{name}\b", gpu):
                return PeakRate(tflops * 1e12, f"data sheet of {name}, dense bf16")
    return PeakRate(measure_product_rate(device, dtype), f"measured large product, {dtype}".replace("torch.", ""))


def measure_bandwidth(device: torch.device) -> float:
    """Measure the rate of reading memory in bytes per second."""
    x = torch.ones(2**28 if device.type == "cuda" else 2**26, device=device)  # much more than the caches
    return 4 * x.numel() / measure_seconds(x.sum, device, repeat=5)


def count_compiled_regions(function: Callable[[], object]) -> int:
    """Count the regions of code compiled by torch.compile that a call runs, from PyTorch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    return sum(event.count for event in profile.key_averages() if event.key.startswith("Torch-Compiled Region"))


def measure_peak_bytes(function: Callable[[], object], device: torch.device) -> int | None:
    """Measure the peak of the memory that PyTorch has allocated on a GPU during a call; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    function()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def has_bf16_instructions(cpuinfo: str | pathlib.Path = "/proc/cpuinfo") -> bool:
    """Whether the processor has instructions for bfloat16 products, as far as Linux tells."""
    try:
        return bool(BF16_FLAGS & set(pathlib.Path(cpuinfo).read_text().split()))
    except OSError:
        return False


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
