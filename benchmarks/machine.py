"""What this machine can do: rates of matrix products on given shapes, and memory bandwidth."""

import platform
import statistics
import time

import torch


def seconds(work, device, repeat=3, warm_up=1):
    """Median time of `work()` in seconds, after runs that warm up; waits for the device."""
    times = []
    for _ in range(warm_up + repeat):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[warm_up:])


def in_turns(project, peer, device, rounds):
    """Time two pieces of work in turns, so that a machine whose speed drifts favours neither.

    Returns:
        median seconds of each, and the median of the rounds' ratios peer / project.
    """
    for work in (project, peer):
        work()
    pairs = [[seconds(work, device, 1, warm_up=0) for work in (project, peer)] for _ in range(rounds)]
    ours, theirs = zip(*pairs)
    return statistics.median(ours), statistics.median(theirs), statistics.median(p / o for o, p in pairs)


def product_seconds(rows, inputs, outputs, device, dtype, learning):
    """Time that the products of one linear layer take alone: forward, and with `learning` both of the backward pass."""
    x, w = (torch.randn(*shape, device=device, dtype=dtype) for shape in ((rows, inputs), (outputs, inputs)))
    total = seconds(lambda: torch.mm(x, w.t()), device)
    if learning:
        g = torch.randn(rows, outputs, device=device, dtype=dtype)
        total += seconds(lambda: torch.mm(g, w), device) + seconds(lambda: torch.mm(g.t(), x), device)
    return total


def peak_rate(device, dtype):
    """Best rate of a large square matrix product, in operations per second."""
    n = 8192 if device.type == "cuda" else 2048
    a = torch.randn(n, n, device=device, dtype=dtype)
    return 2 * n**3 / seconds(lambda: a @ a, device, repeat=5)


def bandwidth(device):
    """Rate at which memory is read, in bytes per second."""
    x = torch.ones(2**26, device=device)
    return 4 * x.numel() / seconds(x.sum, device, repeat=5)


def describe(device):
    """The machine in words and versions."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    about = dict(processor=model, threads=torch.get_num_threads(), torch=torch.__version__)
    about["isa"] = torch.backends.cpu.get_cpu_capability()
    if device.type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
    return about
