"""Detect non-finite losses and gradients."""

import dataclasses
import math
from collections.abc import Sequence

import torch

from utils import distributed
from utils.distributed import DistContext


@dataclasses.dataclass(frozen=True)
class _Step:
    """A recorded optimizer step: its tensors stay on the device."""

    epoch: int
    step: int
    video_ids: list[list[str]]  # of each batch
    losses: torch.Tensor  # (batches, losses)
    grad_norm: torch.Tensor | None
    is_bad: torch.Tensor  # () bool


class NonFiniteMonitor:
    """Records the losses and the gradient norm of each optimizer step on the device, without a host sync.

    `flush` reads what was recorded since the last flush, in one copy. All processes flush together, before every log
    line and every checkpoint, so that nothing non-finite is ever saved.

    Args:
        context: of the run's processes.
    Attributes:
        loss_sums: sums of the losses over the epoch's batches, and the number of batches: (losses + 1,) float64.
        grad_norm: of the last step; None while a gradient scaler is enabled, which handles such gradients itself.
    """

    def __init__(self, context: DistContext) -> None:
        self.context = context
        self.loss_sums: torch.Tensor | None = None
        self.grad_norm: torch.Tensor | None = None
        self._steps: list[_Step] = []

    def reset(self, loss_sums: Sequence[float]) -> None:
        """Begin an epoch, or continue one with the sums of its first batches."""
        self.loss_sums = None
        if loss_sums:
            self.loss_sums = torch.tensor(loss_sums, dtype=torch.float64, device=self.context.device)

    def record(
        self,
        epoch: int,
        step: int,
        video_ids: list[list[str]],
        losses: torch.Tensor,
        grad_norm: torch.Tensor | None,
    ) -> None:
        """Record an optimizer step.

        Args:
            epoch, step: for the message; a step is the index of its last batch in this process's epoch.
            video_ids: of each batch.
            losses: (batches, losses) float64.
            grad_norm: (), or None to leave gradients out.
        """
        is_bad = ~losses.isfinite().all()
        if grad_norm is not None:
            is_bad = is_bad | ~grad_norm.isfinite()
        sums = torch.cat([losses.sum(0), losses.new_full((1,), len(losses))])
        self.loss_sums = sums if self.loss_sums is None else self.loss_sums + sums
        self.grad_norm = grad_norm
        self._steps.append(_Step(epoch, step, video_ids, losses, grad_norm, is_bad))

    def flush(self) -> None:
        """Check the steps since the last flush.

        Raises:
            FloatingPointError: on all processes if a step of any had a non-finite loss or gradient; the message names
                epoch, step and videos.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return
        flags = torch.stack([step.is_bad for step in steps]).float()
        flags = distributed.all_reduce_max(flags, self.context).tolist()
        for step, is_bad in zip(steps, flags):
            if is_bad:
                raise FloatingPointError(f"epoch {step.epoch}, step {step.step}: not finite: {self._describe(step)}")

    def _describe(self, step: _Step) -> str:
        """The non-finite value and its videos: one batch's if a loss tells which, otherwise those of all processes."""
        batches = list(zip(step.video_ids, step.losses.tolist()))
        bad = [batch for batch in batches if not all(map(math.isfinite, batch[1]))]
        gathered = distributed.broadcast_object(distributed.gather_objects((batches, bad), self.context), self.context)
        assert gathered is not None
        all_bad = [batch for _, bad_of_rank in gathered for batch in bad_of_rank]
        if all_bad:
            video_ids, losses = all_bad[0]
            return f"loss {losses[0]}; videos: {' '.join(video_ids)}"
        video_ids = [video_id for batches_of_rank, _ in gathered for ids, _ in batches_of_rank for video_id in ids]
        norm = "" if step.grad_norm is None else step.grad_norm.item()
        return f"gradient norm {norm}; videos: {' '.join(video_ids)}"
