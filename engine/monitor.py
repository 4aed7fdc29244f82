"""Detect non-finite losses and gradients."""

import dataclasses
import math
from collections.abc import Sequence

import torch

from utils import distributed
from utils.distributed import DistContext


@dataclasses.dataclass(frozen=True)
class _Step:
    """A recorded optimizer step; its tensors stay on the device."""

    epoch: int
    step: int
    video_ids: list[list[str]]  # of each batch
    losses: torch.Tensor  # (batches, losses)
    grad_norm: torch.Tensor | None
    is_non_finite: torch.Tensor  # () bool


class NonFiniteMonitor:
    """Records the losses and the gradient norm of each optimizer step on the device, without a host sync.

    `flush` checks the steps recorded since the last flush, with one host sync. All processes flush together before each
    log line and each checkpoint: non-finite weights are never saved.

    Args:
        context: rank, world size and device of this process.
    Attributes:
        loss_sums: sums of the losses over the epoch's batches, and the number of batches: (losses + 1,) float64.
        grad_norm: gradient norm of the last step; None with a gradient scaler, which handles non-finite gradients
            itself.
    """

    def __init__(self, context: DistContext) -> None:
        self.context = context
        self.loss_sums: torch.Tensor | None = None
        self.grad_norm: torch.Tensor | None = None
        self._steps: list[_Step] = []

    def reset(self, loss_sums: Sequence[float]) -> None:
        """Start an epoch, or continue one with the sums over its first batches."""
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
            epoch: for the message, the index of the epoch, which the message counts from 1.
            step: for the message, the index of its last batch in this process's epoch.
            video_ids: video ids of each batch.
            losses: (batches, losses) float64.
            grad_norm: (); None does not check gradients.
        """
        is_non_finite = ~losses.isfinite().all()
        if grad_norm is not None:
            is_non_finite = is_non_finite | ~grad_norm.isfinite()
        sums = torch.cat([losses.sum(0), losses.new_full((1,), len(losses))])
        self.loss_sums = sums if self.loss_sums is None else self.loss_sums + sums
        self.grad_norm = grad_norm
        self._steps.append(_Step(epoch, step, video_ids, losses, grad_norm, is_non_finite))

    def flush(self) -> None:
        """Check the steps since the last flush.

        Raises:
            FloatingPointError: on every process, if a step of any process had a non-finite loss or gradient; the
                message names epoch, step and videos.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return
        is_non_finite = torch.stack([step.is_non_finite for step in steps]).float()
        for step, flag in zip(steps, distributed.all_reduce_max(is_non_finite, self.context).tolist()):
            if flag:
                moment = f"epoch {step.epoch + 1}, step {step.step}"
                raise FloatingPointError(f"{moment}: not finite: {self._describe(step)}")

    def _describe(self, step: _Step) -> str:
        """Name the non-finite value and its videos: those of the batch with a non-finite loss, else all of the step."""
        batches = list(zip(step.video_ids, step.losses.tolist()))
        non_finite_batches = [batch for batch in batches if not all(map(math.isfinite, batch[1]))]
        gathered = distributed.broadcast_object(
            distributed.gather_objects((batches, non_finite_batches), self.context), self.context
        )
        assert gathered is not None
        all_non_finite = [batch for _, batches_with_non_finite in gathered for batch in batches_with_non_finite]
        if all_non_finite:
            video_ids, losses = all_non_finite[0]
            return f"loss {losses[0]}; videos: {' '.join(video_ids)}"
        video_ids = [video_id for batches_of_rank, _ in gathered for ids, _ in batches_of_rank for video_id in ids]
        norm = "" if step.grad_norm is None else step.grad_norm.item()
        return f"gradient norm {norm}; videos: {' '.join(video_ids)}"
