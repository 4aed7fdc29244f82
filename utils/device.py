"""Device and precision of the model's arithmetic."""

import ctypes
import functools
import platform
from typing import Literal

import torch

from utils.device_names import check_device_name
from utils.precision import PrecisionName

# Of mallopt in glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4

# None: no autocast.
PRECISIONS: dict[PrecisionName, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def setup_device(name: str, *, tf32: bool = False) -> torch.device:
    """Select the device, and set PyTorch's options for its kind of device.

    All commands call it, directly or by `utils.distributed.init_context`.

    Args:
        name: `auto`, `cpu`, `cuda` or `cuda:N`; only the device of the last has an index.
        tf32: allow TF32 in float32 matrix products and convolutions on GPUs, for which PyTorch has different defaults.
    Raises:
        ValueError: it is not such a name, or there is no such GPU.
    """
    try:
        check_device_name(name)
    except ValueError as error:
        raise ValueError(f"device: {error}") from None
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    # On recent GPUs PyTorch prefers cuDNN's attention, which builds a plan (tens of milliseconds) for each new shape;
    # batches of videos have new shapes all the time.
    torch.backends.cuda.enable_cudnn_sdp(False)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: found no GPU that PyTorch can use, expected one for device {name}; use --device cpu")
    if device.index is not None and device.index >= (count := torch.cuda.device_count()):
        raise ValueError(f"device: found {name}, expected N below {count}, the number of GPUs that PyTorch can use")
    return device


@functools.cache
def keep_freed_memory() -> None:
    """Let malloc keep freed memory for the next tensors of this process, instead of returning it to the kernel.

    By default, glibc maps each large tensor anew, and the kernel zeroes its pages at the first access. Other C
    libraries are not changed.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**28)):
            libc.mallopt(parameter, value)


def autocast(precision: PrecisionName, device: torch.device) -> torch.autocast:
    """Context in which the model computes in `precision`, one of `PRECISIONS`."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def resolve_precision(precision: Literal["auto", PrecisionName], device: torch.device) -> PrecisionName:
    """Resolve `auto`: bf16 on a GPU, fp32 on a CPU; other names are unchanged."""
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return precision


def gradient_scaler(precision: PrecisionName, device: torch.device) -> torch.amp.GradScaler:
    """Gradient scaler for fp16; disabled in the other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
