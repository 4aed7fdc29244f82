"""The training step at the published size, compared with the same model from transformers' parts.

Axes: B videos, T frames, R annotators, L text tokens, D width.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from benchmarks.machine import (
    count_compiled_regions,
    measure_alternately,
    measure_linear_seconds,
    measure_peak_bytes,
)
from benchmarks.peers import PeerModel
from benchmarks.records import Row
from benchmarks.workload import (
    FULL_SIZE_CONFIG,
    build_full_size_model,
    draw_captions,
    draw_lengths,
    draw_videos,
    get_blip_decoder,
)
from data.loaders import TrainBatchSampler
from models.vtsum_blip import VTSumBLIP
from utils.device import PRECISIONS, autocast, gradient_scaler
from utils.precision import PrecisionName

LAMBDA_VSUM = 15.0
# Relative differences of losses between the compiled and the plain model, which round at other operations.
COMPILED_TOLERANCES: dict[PrecisionName, float] = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 5e-3}
NUM_TRAINING_VIDEOS = 8000
Losses = tuple[torch.Tensor, torch.Tensor]  # loss_tsum, loss_vsum


def build_training_step(
    network: nn.Module,
    compute_losses: Callable[[], Losses],
    device: torch.device,
    precision: PrecisionName,
    *,
    fused: bool | None,
) -> Callable[[], None]:
    """Build a function that performs one optimizer step as the training script does.

    Args:
        network: to optimize.
        compute_losses: forward pass on a fixed batch.
        device: device of the network.
        precision: autocast precision.
        fused: whether AdamW is fused; None is PyTorch's default.
    """
    optimizer = torch.optim.AdamW(network.named_parameters(), lr=1e-5, weight_decay=0.05, fused=fused)
    scaler = gradient_scaler(precision, device)

    def perform_step() -> None:
        with autocast(precision, device):
            loss_tsum, loss_vsum = compute_losses()
        scaler.scale(loss_tsum + LAMBDA_VSUM * loss_vsum).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return perform_step


class LinearLayers(NamedTuple):
    """`num_layers` linear layers, each of `inputs` -> `outputs` columns on `rows` rows."""

    rows: int
    inputs: int
    outputs: int
    num_layers: int


def list_linear_layers(
    model: VTSumBLIP, frames: Sequence[int], tokens: Sequence[int], smoothing_scope: str
) -> list[LinearLayers]:
    """List the linear layers of a training step that computes nothing for padding.

    Args:
        model: the model.
        frames: number of frames of each video.
        tokens: number of tokens of each caption.
        smoothing_scope: `published` needs padded tokens (QUIRK-2).
    """
    decoder = get_blip_decoder(model)
    config = decoder.config
    D = model.position_embeddings.embedding_dim
    width = config.hidden_size
    layers = config.num_hidden_layers
    num_frames = sum(frames)
    if smoothing_scope == "published":
        L = max(tokens) - 1
        queries = scored = L * len(tokens)
        keys = sum(min(length, L) for length in tokens)
    else:
        queries = keys = sum(length - 1 for length in tokens)
        scored = sum(length - len(decoder.tokenizer.prompt_ids) for length in tokens)
    return [
        # temporal transformer and context aggregation
        LinearLayers(num_frames, D, 3 * D, 2),
        LinearLayers(num_frames, D, D, 2),
        LinearLayers(num_frames, D, 4 * D, 1),
        LinearLayers(num_frames, 4 * D, D, 1),
        # caption decoder
        LinearLayers(queries, width, width, 4 * layers),
        LinearLayers(keys, width, width, 2 * layers),
        LinearLayers(num_frames, D, width, 2 * layers),
        LinearLayers(queries, width, config.intermediate_size, layers),
        LinearLayers(queries, config.intermediate_size, width, layers),
        LinearLayers(scored, width, width, 1),
        LinearLayers(scored, width, config.vocab_size, 1),
    ]


def count_step_operations(model: VTSumBLIP, frames: Sequence[int], tokens: Sequence[int], smoothing_scope: str) -> int:
    """Count the operations of a training step's matrix products: two per product, three times for both passes.

    Attention is included, of each query to the keys that it may attend to.

    Args:
        model, frames, tokens, smoothing_scope: as in `list_linear_layers`.
    """
    decoder = get_blip_decoder(model)
    D = model.position_embeddings.embedding_dim
    assert model.local_atten_head is not None and model.local_atten_head.attn.radius is not None
    window = 2 * model.local_atten_head.attn.radius + 1
    longest = max(tokens) - 1
    products = 0
    for layer in list_linear_layers(model, frames, tokens, smoothing_scope):
        products += layer.num_layers * layer.rows * layer.inputs * layer.outputs
    for T, length in zip(frames, tokens):
        L = longest if smoothing_scope == "published" else length - 1
        products += 2 * D * T * (T + min(T, window))  # temporal transformer, context aggregation
        products += decoder.config.num_hidden_layers * 2 * decoder.config.hidden_size * L * (L // 2 + T)
    return 2 * 3 * products


def benchmark_training(
    device: torch.device,
    *,
    batch_size: int = 16,
    rounds: int = 2,
    precision: PrecisionName = "fp32",
    med_config: str = FULL_SIZE_CONFIG,
) -> list[Row]:
    """Compare the training step for both scopes of the smoothing.

    Args:
        device: device of the models.
        batch_size: B.
        rounds: number of alternating measurements.
        precision: autocast precision.
        med_config: see `build_full_size_model`.
    """
    frames, tokens = (lengths[:batch_size].tolist() for lengths in draw_lengths(NUM_TRAINING_VIDEOS, seed=1))
    return [
        measure_training_step(
            device,
            frames,
            tokens,
            smoothing_scope=smoothing_scope,
            rounds=rounds,
            precision=precision,
            med_config=med_config,
        ).row
        for smoothing_scope in ("published", "scored")
    ]


class StepMeasurement(NamedTuple):
    """Measurements of one training step.

    Attributes:
        row: times of project and peer.
        operations: see `count_step_operations`.
        project_bytes: peak memory with the project's model and optimizer; None on a CPU.
        peer_bytes: peak memory with the peer's; None on a CPU.
    """

    row: Row
    operations: int
    project_bytes: int | None
    peer_bytes: int | None


def measure_training_step(
    device: torch.device,
    frames: Sequence[int],
    tokens: Sequence[int],
    *,
    smoothing_scope: str,
    rounds: int,
    precision: PrecisionName,
    med_config: str,
    compiled: bool = False,
) -> StepMeasurement:
    """Compare the training step on videos and captions of these lengths with the peer's.

    Args:
        device: device of the models.
        frames: number of frames of each video.
        tokens: number of tokens of each caption.
        smoothing_scope: see `models.losses.caption_loss`.
        rounds: number of alternating measurements.
        precision: autocast precision.
        med_config: see `build_full_size_model`.
        compiled: compile the project's layers; the losses of the compiled model are compared with the others, too.
    """
    model = build_full_size_model(smoothing_scope=smoothing_scope, med_config=med_config).to(device)
    embeddings, mask, labels = draw_videos(frames)
    ids = draw_captions(tokens, model)
    # The project's mask and ids stay on the host, as in `Batch.to`.
    batch = (embeddings.to(device), mask, labels.to(device), ids)
    peer_batch = tuple(tensor.to(device) for tensor in batch)
    initial_state = {name: value.to("cpu", copy=True) for name, value in model.state_dict().items()}

    def compute_project_losses() -> Losses:
        loss_tsum, loss_vsum = model(*batch)
        return loss_tsum, loss_vsum

    # The memory of the project's step is measured before the peer is built.
    losses = compute_losses_without_dropout(model, compute_project_losses, device, "fp32")
    check = ""
    if compiled:
        plain_losses = compute_losses_without_dropout(model, compute_project_losses, device, precision)
        model.compile_layers()
        compiled_losses = compute_losses_without_dropout(model, compute_project_losses, device, precision)
        error = ((compiled_losses - plain_losses) / plain_losses).abs().max().item()
        assert error < COMPILED_TOLERANCES[precision], f"compiled losses differ: {compiled_losses}, {plain_losses}"
        check = f", compiled within {error:.0e}"
    project_step = build_training_step(model.train(), compute_project_losses, device, precision, fused=True)
    project_step()  # creates the optimizer's state
    if compiled:
        num_regions = count_compiled_regions(project_step)
        assert num_regions > 0, "the step ran no compiled code"
        check += f", {num_regions} compiled regions"
    project_bytes = measure_peak_bytes(project_step, device)
    other_bytes = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0

    model.load_state_dict(initial_state)
    peer = PeerModel(model).to(device)

    def compute_peer_losses() -> Losses:
        loss_tsum, loss_vsum = peer(*peer_batch, smoothing_scope)
        return loss_tsum, loss_vsum

    peer_losses = compute_losses_without_dropout(peer, compute_peer_losses, device, "fp32")
    error = ((losses - peer_losses) / peer_losses).abs().max().item()
    assert error < (1e-5 if device.type == "cpu" else 1e-4), f"losses differ: {losses}, {peer_losses}"
    peer_step = build_training_step(peer.train(), compute_peer_losses, device, precision, fused=None)
    peer_step()
    peer_bytes = measure_peak_bytes(peer_step, device)
    project_seconds, peer_seconds, ratio = measure_alternately(project_step, peer_step, device, rounds)
    dtype = PRECISIONS[precision] or torch.float32
    limit_seconds = sum(
        layer.num_layers * measure_linear_seconds(layer.rows, layer.inputs, layer.outputs, device, dtype, backward=True)
        for layer in list_linear_layers(model, frames, tokens, smoothing_scope)
    )
    row = Row(
        measurement=f"training step, {precision}, B = {len(frames)}, smoothing {smoothing_scope}"
        + (", compiled" if compiled else ""),
        project_value=project_seconds,
        peer_value=peer_seconds,
        unit="s",
        peer_name="BlipTextLMHeadModel, timm, padded",
        ratio=ratio,
        limit_fraction=limit_seconds / project_seconds,
        limit_description="matrix products on the step's shapes",
        check=f"losses within {error:.0e}{check}",
    )
    return StepMeasurement(
        row,
        count_step_operations(model, frames, tokens, smoothing_scope),
        project_bytes,
        None if peer_bytes is None else peer_bytes - other_bytes,
    )


def compute_losses_without_dropout(
    network: nn.Module, compute_losses: Callable[[], Losses], device: torch.device, precision: PrecisionName
) -> torch.Tensor:
    """Compute both losses (2,) in evaluation mode, in which they do not depend on random numbers.

    Args:
        network: is left in evaluation mode.
        compute_losses: forward pass on a fixed batch.
        device: device of the network.
        precision: autocast precision.
    """
    network.eval()
    with torch.no_grad(), autocast(precision, device):
        return torch.stack([loss.float() for loss in compute_losses()])


def benchmark_padding(batch_size: int = 16) -> list[Row]:
    """Compare the fraction of padding in an epoch with and without bucketing.

    Args:
        batch_size: videos per batch.
    """
    frame_sampler, token_sampler = (
        TrainBatchSampler(lengths.tolist(), batch_size, rank=0, world_size=1, seed=42)
        for lengths in draw_lengths(NUM_TRAINING_VIDEOS, seed=1)
    )
    shuffled = frame_sampler.padding_fraction(False)
    bucketed = frame_sampler.padding_fraction(True)
    return [
        Row(
            measurement="padded frame slots of an epoch, length_bucketing",
            project_value=bucketed,
            peer_value=shuffled,
            unit="of all",
            peer_name="shuffled batches",
            ratio=shuffled / bucketed,
        ),
        Row(
            measurement="padded token slots of an epoch",
            project_value=token_sampler.padding_fraction(False),
            unit="of all",
        ),
    ]
