"""Prepacked weights of linear layers on CPUs, in oneDNN's layout: float32, or bfloat16 under autocast."""

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
    """Use prepacked weights in linear layers on a CPU within the block.

    `F.linear` packs the weights in each call, and under autocast converts them, which takes much of its time if the
    input has few rows. Results are equal up to the order of additions; there are no gradients.

    Args:
        layers: only float32 `nn.Linear` with a bias, on a CPU, are changed.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    packed = [layer for layer in layers if isinstance(layer, nn.Linear) and _is_supported(layer, dtype)]
    try:
        for layer in packed:
            weight = _OPS._reorder_linear_weight(layer.weight.detach().to(dtype), None)
            forward = functools.partial(_apply_linear, weight=weight, bias=layer.bias.detach().to(dtype), dtype=dtype)
            vars(layer)["forward"] = forward  # takes precedence over the method
        yield
    finally:
        for layer in packed:
            vars(layer).pop("forward", None)


def _is_supported(layer: nn.Linear, dtype: torch.dtype) -> bool:
    is_float32_on_cpu = layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32
    has_dtype = dtype == torch.float32 or (dtype == torch.bfloat16 and _OPS._is_mkldnn_bf16_supported())
    is_plain = type(layer).forward is nn.Linear.forward and layer.bias is not None
    return AVAILABLE and is_float32_on_cpu and has_dtype and is_plain


def _apply_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return _OPS._linear_pointwise(x.to(dtype), weight, bias, "none", [], "")
