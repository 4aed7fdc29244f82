"""Prepacked weights of linear layers on CPUs, in oneDNN's layout."""

import contextlib
import functools
from collections.abc import Iterable, Iterator

import torch
from torch import nn

# Operators of torch.compile's "freezing". They are not public: without them, plain layers are used.
_OPS = torch.ops.mkldnn
AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(_OPS, "_reorder_linear_weight")


@contextlib.contextmanager
def prepacked_linears(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Use prepacked weights in float32 linear layers on a CPU within the block.

    With the few rows of a decoding step, each call of `F.linear` spends much of its time on packing the weights.
    Results are equal up to the order of additions; there are no gradients.

    Args:
        layers: only float32 `nn.Linear` with a bias, on a CPU, are changed.
    """
    supported = [layer for layer in layers if isinstance(layer, nn.Linear) and _is_supported(layer)]
    try:
        for layer in supported:
            weight = _OPS._reorder_linear_weight(layer.weight.detach(), None)
            forward = functools.partial(_apply_linear, weight=weight, bias=layer.bias.detach())
            vars(layer)["forward"] = forward  # takes precedence over the method
        yield
    finally:
        for layer in supported:
            vars(layer).pop("forward", None)


def _is_supported(layer: nn.Linear) -> bool:
    is_float32_on_cpu = layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32
    return AVAILABLE and is_float32_on_cpu and layer.bias is not None and not torch.is_autocast_enabled("cpu")


def _apply_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return _OPS._linear_pointwise(x, weight, bias, "none", [], "")
