"""A GPU in the tests without a GPU: the tensors on "cuda" are fake, those on the CPU are real.

Fake tensors (`FakeTensorMode`) have shape, dtype and device, but no values. A dispatch mode handles each operator: it
raises if the devices of its arguments differ, records host syncs and copies from the host, and returns zeros for each
read of the device.
"""

import contextlib
import dataclasses
import pathlib
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PINNED = "is_pinned_copy"  # attribute of the tensors that `pin_memory` returns
aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
PRODUCTS = {aten.mm.default, aten.addmm.default, aten.addmm_.default}
# Operators whose result or its shape depends on values: on a GPU, each is a host sync.
HOST_SYNCS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.equal.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor,
    aten.bincount.default,
}


@dataclasses.dataclass(frozen=True)
class SourceLine:
    """A line of the project that called an operator."""

    path: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


class WrongDevice(AssertionError):
    """An operator has arguments on the GPU and on the CPU."""


class FakeCuda(TorchDispatchMode):
    """Runs operators with tensors on "cuda" without values, and all others as usual; see `fake_cuda`.

    Args:
        integer: value of the integers that `item` reads; all other values are 0.
    Attributes:
        syncs: line of each host sync.
        copies: line of each copy from the host to the device.
        product_dtypes: dtypes of the products of linear layers on the device.
    """

    def __init__(self, integer: int = 0) -> None:
        super().__init__()
        self.integer = integer
        self.syncs: list[SourceLine] = []
        self.copies: list[SourceLine] = []
        self.product_dtypes: set[torch.dtype] = set()

    def reset(self) -> None:
        """Forget what was recorded."""
        self.syncs, self.copies, self.product_dtypes = [], [], set()

    def count_syncs(self) -> dict[str, int]:
        """Count the host syncs of each function, such as `models/beam_search.py:append_eos`."""
        return dict(Counter(f"{line.path}:{line.function}" for line in self.syncs))

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and func.namespace == "aten":  # autograd has not decomposed it
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        fake = [tensor for tensor in tensors if isinstance(tensor, FakeTensor)]
        if not fake and torch.device(kwargs.get("device") or "cpu").type != "cuda":
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func in COPIES:
            return self._copy(func, args, kwargs)
        real = [tensor for tensor in tensors if not isinstance(tensor, FakeTensor) and tensor.ndim]
        if func in INDEXING:
            # Masks are converted to indices on the host; indices on the host are copied.
            indices = [index for index in args[1] if index is not None]
            if any(index.dtype == torch.bool or not isinstance(index, FakeTensor) for index in indices):
                self.syncs.append(find_source_line())
        elif fake and real:
            raise WrongDevice(f"{find_source_line()}: {func}: found tensors on cuda and cpu, expected one device")
        if func in HOST_SYNCS:
            self.syncs.append(find_source_line())
        if func is aten._local_scalar_dense.default:
            with unset_fake_temporarily():
                value = torch.zeros((), dtype=args[0].dtype).item()
            return self.integer if type(value) is int else value
        if func is aten.nonzero.default:
            return args[0].new_zeros(0, args[0].ndim, dtype=torch.long)
        result = func(*args, **kwargs)
        if func in PRODUCTS:
            self.product_dtypes.add(result.dtype)
        return result

    def _copy(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """Copy within the device, to it, or from it."""
        if func is aten.copy_.default:
            target, source = args[0].device, args[1]
            non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        else:
            source, non_blocking = args[0], kwargs.get("non_blocking", False)
            target = torch.device(kwargs.get("device") or source.device)
        if target.type == "cpu":
            self.syncs.append(find_source_line())
            with unset_fake_temporarily():
                values = torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype)
                return args[0].copy_(values) if func is aten.copy_.default else values
        if not isinstance(source, FakeTensor):
            self.copies.append(find_source_line())
            if not (non_blocking and getattr(source, PINNED, False)):
                self.syncs.append(find_source_line())
        return func(*args, **kwargs)


def find_source_line() -> SourceLine:
    """Return the innermost line of the project that is being executed."""
    frame = sys._getframe(1)
    while frame is not None:
        path = pathlib.Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and path != pathlib.Path(__file__) and "site-packages" not in path.parts:
            function = frame.f_code.co_qualname.partition(".<locals>")[0]  # of a comprehension, the function around it
            return SourceLine(path.relative_to(ROOT).as_posix(), frame.f_lineno, function)
        frame = frame.f_back
    raise AssertionError("an operator was not called by the project")


def _pin_memory(tensor: torch.Tensor) -> torch.Tensor:
    pinned = tensor.clone()
    setattr(pinned, PINNED, True)
    return pinned


def _tolist(tensor: torch.Tensor) -> Any:
    return tensor.cpu().tolist()


def run_backward(loss: torch.Tensor) -> None:
    """Run the backward pass of a fake tensor: PyTorch's engine needs a GPU for a graph on "cuda".

    The functions of the graph are called in the engine's order. As the engine does, gradients are summed to the shape
    and converted to the dtype of the forward pass.
    """
    gradients: dict[Any, list[torch.Tensor | None]] = {loss.grad_fn: [torch.ones_like(loss)]}
    # Checkpointed layers are recomputed once per task.
    with torch.no_grad(), mock.patch("torch._C._current_graph_task_id", lambda: 0):
        for node in _sort_graph(loss.grad_fn):
            inputs = gradients.pop(node, None)
            if inputs is None:
                continue
            outputs = node(*inputs) if callable(node) else node.apply(*inputs)  # of PyTorch, or of the project
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            for (following, index), gradient in zip(node.next_functions, outputs):
                if following is None or gradient is None:
                    continue
                metadata = following._input_metadata[index]
                gradient = gradient.sum_to_size(metadata.shape).to(metadata.dtype)
                sums = gradients.setdefault(following, [None] * len(following._input_metadata))
                total = sums[index]
                sums[index] = gradient if total is None else total + gradient


def _sort_graph(root: Any) -> list[Any]:
    """Order the functions of a graph such that each comes before those that it passes gradients to."""
    ordered: list[Any] = []
    visited = set()
    stack = [(root, False)]
    while stack:
        node, is_complete = stack.pop()
        if is_complete:
            ordered.append(node)
        elif node not in visited:
            visited.add(node)
            stack.append((node, True))
            stack += [(following, False) for following, _ in node.next_functions if following is not None]
    return ordered[::-1]


def move_to_cuda(module: nn.Module) -> nn.Module:
    """Move a module to the fake GPU in place; `Module.to` would separate tied parameters. Returns the module."""
    moved: dict[torch.Tensor, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if parameter not in moved:
                moved[parameter] = nn.Parameter(parameter.detach().to("cuda"), parameter.requires_grad)
            setattr(part, name, moved[parameter])
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, buffer.to("cuda"))
    return module


@contextlib.contextmanager
def fake_cuda(integer: int = 0) -> Iterator[FakeCuda]:
    """Simulate a GPU within the block.

    Reads of the device return zeros: `item`, `tolist`, `cpu`. Pinned memory is only recorded, and
    `torch.autocast("cuda")`, which disables itself without a GPU, has its effect.

    Args:
        integer: see `FakeCuda`.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", _pin_memory))
        stack.enter_context(mock.patch.object(torch.Tensor, "backward", run_backward))
        stack.enter_context(mock.patch.object(FakeTensor, "tolist", _tolist))
        stack.enter_context(mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False))
        stack.enter_context(mock.patch("torch.cuda.is_bf16_supported", lambda: True))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(FakeCuda(integer))
