"""Linear layers on a CPU with weights prepacked in oneDNN's layout."""

import contextlib
import functools
from collections.abc import Iterable, Iterator

import torch
from torch import nn

# The operators of torch.compile's "freezing". They have no public name, so a torch without them uses plain layers.
_OPS = torch.ops.mkldnn
AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(_OPS, "_reorder_linear_weight")


@contextlib.contextmanager
def prepacked_linears(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Run float32 linear layers on a CPU with prepacked weights until the block ends.

    For the few rows of a decoding step `F.linear` spends much of its time on packing the weights, in each call.
    The results are the same but for the order of additions; there are no gradients.

    Args:
        layers: those other than float32 `nn.Linear` with a bias on a CPU are left as they are.
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


def _is_float32_on_cpu(layer: nn.Module) -> bool:
    is_linear = isinstance(layer, nn.Linear) and layer.bias is not None
    has_type = is_linear and layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32
    return has_type and not torch.is_autocast_enabled("cpu")


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return _OPS._linear_pointwise(x, weight, bias, "none", [], "")
