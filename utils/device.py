"""In which precision the model computes."""

import torch

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision, device):
    """Context in which the model computes in `precision`, one of `PRECISIONS`, on a `torch.device`."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def gradient_scaler(precision, device):
    """What keeps small gradients from vanishing in float16; it does nothing in the other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def allow_tf32(allowed):
    """Let GPUs round the factors of float32 products to TF32, or not; PyTorch 1.10 did where they could."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
