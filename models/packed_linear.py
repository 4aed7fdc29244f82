"""Linear layers on a CPU with weights in the order that oneDNN reads them in."""

import contextlib
import functools

import torch
from torch import nn

# What torch.compile's "freezing" calls. torch has no public name for them, so they may go: then nothing is packed.
_OPS = torch.ops.mkldnn
AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(_OPS, "_reorder_linear_weight")


@contextlib.contextmanager
def packed_linears(layers):
    """Let float32 linear layers on a CPU multiply by reordered weights until the block ends.

    For the few rows of a decoding step `F.linear` spends much of its time on reordering the weights, each time anew.
    The results are the same but for the order of additions; there are no gradients.

    Args:
        layers: iterable of `nn.Linear`; those of other types or on other devices are left as they are.
    """
    layers = [layer for layer in layers if AVAILABLE and _is_float32_on_cpu(layer)]
    try:
        for layer in layers:
            weight = _OPS._reorder_linear_weight(layer.weight.detach(), None)
            layer.forward = functools.partial(_linear, weight=weight, bias=layer.bias.detach())
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _is_float32_on_cpu(layer):
    of_type = isinstance(layer, nn.Linear) and layer.bias is not None
    plain = of_type and layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32
    return plain and not torch.is_autocast_enabled("cpu")


def _linear(x, weight, bias):
    return _OPS._linear_pointwise(x, weight, bias, "none", [], "")
