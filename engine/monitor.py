"""Keep what is not finite out of the weights."""

import logging
import math

import torch
from torch.nn.utils import get_total_norm

from utils import distributed

logger = logging.getLogger(__name__)


class Guard:
    """Looks at the losses and gradients of each step of the optimiser.

    A step in which one of them is not finite, on any process, leaves the weights as they are: a fused optimiser is told
    so on its device, and nobody waits for it. Which steps these were is looked at later, in `look`.

    Args:
        optimizer: a fused one.
        scaler: `torch.amp.GradScaler`. While it is at work, gradients that are not finite are its own affair.
        world: `distributed.World`.
        allowed: so many steps of the run may be left out.
    Attributes:
        skipped: so many were.
        totals: sums of the losses over the epoch's batches, and their number, but for steps left out: a tensor.
    """

    def __init__(self, optimizer, scaler, world, allowed):
        self.optimizer, self.scaler, self.world, self.allowed = optimizer, scaler, world, allowed
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.batches, self.steps = [], []  # of the step under way; steps nobody has looked at yet
        self.skipped, self.totals, self.norm = 0, None, None

    def start(self, progress):
        """Begin, or go on with, an epoch."""
        self.skipped, self.totals = progress.skipped, None
        if progress.totals:
            self.totals = torch.tensor(progress.totals, dtype=torch.float64, device=self.world.device)

    def add(self, video_ids, losses):
        """Note a batch's losses, a tensor."""
        self.batches.append((video_ids, losses))

    def close_step(self, epoch, step):
        """Judge a step, after its backward passes and before the optimiser's."""
        losses, self.norm = torch.stack([losses for _, losses in self.batches]), None
        bad = ~losses.isfinite().all()
        if not self.scaler.is_enabled():
            self.norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
            bad = bad | ~self.norm.isfinite()
        bad = distributed.maximum(bad.float(), self.world)
        if not self.scaler.is_enabled():
            self.optimizer.found_inf = bad
        sums = torch.cat([losses.sum(0), losses.new_tensor([len(losses)])])
        sums = torch.where(bad.bool(), torch.zeros_like(sums), sums)
        self.totals = sums if self.totals is None else self.totals + sums
        self.steps.append((epoch, step, self.batches, self.norm, bad))
        self.batches = []

    def gradient(self):
        """The norm of the last step's gradient, for the log; nothing while the scaler is at work."""
        return {} if self.norm is None else dict(grad_norm=self.norm.item())

    def look(self, log):
        """Look at the steps since the last look, in one copy from the device; those left out go into the log.

        Raises:
            FloatingPointError: there are more of them than allowed; the message names the first too many.
        """
        steps, self.steps = self.steps, []
        flags = torch.stack([bad for *_, bad in steps]).tolist() if steps else []
        for (epoch, step, batches, norm, _), bad in zip(steps, flags):
            if bad:
                self.skipped += 1
                what = self._describe(batches, norm)
                if self.skipped > self.allowed:
                    left_out = f" after {self.allowed} steps left out" if self.allowed else ""
                    raise FloatingPointError(f"epoch {epoch}, step {step}: not finite{left_out}: {what}")
                logger.warning("epoch %d, step %d: left out: not finite: %s", epoch, step, what)
                log.write(type="skipped", epoch=epoch, step=step, reason=what)

    def _describe(self, batches, norm):
        """Say what is not finite and in which videos, of all processes; the culprits alone where losses tell them."""
        rows = [(video_ids, losses.tolist()) for video_ids, losses in batches]
        culprits = [(ids, losses) for ids, losses in rows if not all(map(math.isfinite, losses))]
        everything = distributed.from_main(distributed.gather_objects((rows, culprits), self.world), self.world)
        culprits = [row for _, some in everything for row in some]
        if culprits:
            video_ids, losses = culprits[0]
            return f"loss {losses[0]}; videos: {' '.join(video_ids)}"
        video_ids = [video_id for rows, _ in everything for ids, _ in rows for video_id in ids]
        return f"gradient norm {norm.item() if norm is not None else ''}; videos: {' '.join(video_ids)}"
