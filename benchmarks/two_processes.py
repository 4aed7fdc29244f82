"""Data-parallel training steps, compared with one process: run by torch.distributed.run.

    python -m torch.distributed.run --standalone --nproc_per_node=2 -m benchmarks.two_processes \\
        --device cuda --backend gloo --shared_device

Several processes on one GPU need gloo (`--shared_device`); NCCL needs a GPU for each. The first process prints a line
of JSON. All videos have the same length, so that the mean of the processes' losses is the loss of the whole batch.
"""

import argparse
import copy
import json
import os
from collections.abc import Sequence

import torch
from torch import nn

from benchmarks.golden import GOLDEN_MED_CONFIG
from benchmarks.workload import build_full_size_model, draw_captions, draw_videos
from utils import distributed
from utils.log import run_main

VIDEOS_PER_PROCESS = 2
NUM_FRAMES = 20
NUM_TOKENS = 16
NUM_STEPS = 2
LEARNING_RATE = 0.1  # large, so that wrong gradients show
WEIGHT_TOLERANCE = 1e-4  # of the weights after all steps, relative to the largest change


def train(network: nn.Module, batch: Sequence[torch.Tensor]) -> list[float]:
    """Perform steps of stochastic gradient descent; returns their losses."""
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)
    losses = []
    for _ in range(NUM_STEPS):
        loss_tsum, loss_vsum = network(*batch)
        loss = loss_tsum + loss_vsum
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses


def compare_with_one_process(context: distributed.DistContext) -> dict[str, float]:
    """Train on all processes, each on its part of the batch, and on the whole batch on this process alone.

    Args:
        context: rank, world size and device of this process.
    Returns:
        `world_size`, `loss` of the last step, and `difference` of the weights, relative to the largest change.
    Raises:
        AssertionError: the weights differ, or did not change.
    """
    device = context.device
    model = build_full_size_model(med_config=GOLDEN_MED_CONFIG).to(device).eval()  # no dropout
    num_videos = VIDEOS_PER_PROCESS * context.world_size
    embeddings, mask, labels = draw_videos([NUM_FRAMES] * num_videos)
    ids = draw_captions([NUM_TOKENS] * num_videos, model)
    reference = copy.deepcopy(model)
    initial = copy.deepcopy(model)
    train(reference, (embeddings.to(device), mask, labels.to(device), ids))
    part = slice(context.rank * VIDEOS_PER_PROCESS, (context.rank + 1) * VIDEOS_PER_PROCESS)
    batch = (embeddings[part].to(device), mask[part], labels[part].to(device), ids[part])
    losses = train(distributed.wrap_ddp(model, context), batch)
    triples = list(zip(model.parameters(), reference.parameters(), initial.parameters()))
    # The maximum of a tensor is NaN if one of its elements is.
    change = torch.stack([(expected - start).abs().max() for _, expected, start in triples]).max()
    error = torch.stack([(actual - expected).abs().max() for actual, expected, _ in triples]).max()
    assert change > 0, "the weights did not change"
    difference = distributed.all_reduce_max((error / change).detach(), context).item()
    loss = distributed.all_reduce_mean(torch.tensor(losses[-1], device=device), context).item()
    assert difference <= WEIGHT_TOLERANCE, f"the weights of {context.world_size} processes differ by {difference:.1e}"
    return dict(world_size=context.world_size, loss=loss, difference=difference)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_processes", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", choices=("gloo", "nccl"), default="gloo")
    parser.add_argument("--shared_device", action="store_true", help="all processes use the first GPU")
    args = parser.parse_args(argv)
    if args.shared_device:  # as if each process were the only one of its machine
        os.environ.update(LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
    context = distributed.init_context(args.device, backend=args.backend)
    results = compare_with_one_process(context)
    if context.is_main:
        print(json.dumps(results), flush=True)
    distributed.shutdown()


if __name__ == "__main__":
    run_main(main)
