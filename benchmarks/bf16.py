"""bfloat16 on a CPU, compared with the project's own float32: beam search, frame encoding and the training step."""

import functools
import pathlib
from collections.abc import Callable

import torch

from benchmarks.decoding import search_captions, widen_weights
from benchmarks.extraction import build_random_frame_encoder
from benchmarks.machine import measure_alternately
from benchmarks.records import Row
from benchmarks.training import NUM_TRAINING_VIDEOS, Losses, build_training_step
from benchmarks.workload import FULL_SIZE_CONFIG, build_full_size_model, draw_captions, draw_lengths, draw_videos
from utils.precision import PrecisionName

CPU = torch.device("cpu")
COMPARED_PRECISIONS: tuple[PrecisionName, PrecisionName] = ("bf16", "fp32")
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


def has_bf16_instructions(cpuinfo: str | pathlib.Path = "/proc/cpuinfo") -> bool:
    """Whether the processor has instructions for bfloat16 products, as far as Linux tells."""
    try:
        return bool(BF16_FLAGS & set(pathlib.Path(cpuinfo).read_text().split()))
    except OSError:
        return False


def benchmark_bf16(
    *, batch_size: int = 16, L: int = 48, depth: int = 12, rounds: int = 3, med_config: str = FULL_SIZE_CONFIG
) -> list[Row]:
    """Compare both precisions; nothing is measured on a processor without instructions for bfloat16.

    Args:
        batch_size: B; frames per batch are twice as many.
        L: tokens of each generated caption.
        depth: blocks of the frame encoder; 12 is ViT-B/16.
        rounds: number of alternating measurements.
        med_config: see `build_full_size_model`.
    """
    if not has_bf16_instructions():
        print(f"bf16: not measured: the processor has none of {', '.join(sorted(BF16_FLAGS))}")
        return []
    return [
        _benchmark_search(batch_size, L, rounds, med_config),
        _benchmark_encoding(2 * batch_size, depth, rounds),
        *(_benchmark_step(batch_size, scope, rounds, med_config) for scope in ("published", "scored")),
    ]


def _compare(
    measurement: str, bf16: Callable[[], object], fp32: Callable[[], object], rounds: int, check: str | None = None
) -> Row:
    """Measure both precisions alternately; returns their row."""
    comparison = measure_alternately(bf16, fp32, CPU, rounds)
    return Row(
        measurement=measurement,
        project_value=comparison.project_seconds,
        unit="s",
        peer_value=comparison.peer_seconds,
        peer_name="fp32",
        ratio=comparison.ratio,
        check=check,
    )


def _benchmark_search(B: int, L: int, rounds: int, med_config: str) -> Row:
    model = widen_weights(build_full_size_model(med_config=med_config))
    embeddings, mask, _ = draw_videos([120] * B)
    bf16, fp32 = (
        functools.partial(search_captions, model, embeddings, mask, num_beams=3, length=L, precision=precision)
        for precision in COMPARED_PRECISIONS
    )
    equal_fraction = (bf16() == fp32()).all(1).float().mean().item()
    return _compare(
        f"beam search, bf16, B = {B}, K = 3, T = 120, {L} tokens",
        bf16,
        fp32,
        rounds,
        f"{equal_fraction:.0%} of {B} captions (random weights) are those of fp32",
    )


def _benchmark_encoding(num_frames: int, depth: int, rounds: int) -> Row:
    pixels = torch.randint(0, 256, (num_frames, 224, 224, 3), dtype=torch.uint8)
    encoders = []
    for precision in COMPARED_PRECISIONS:
        torch.manual_seed(0)  # the same weights
        encoders.append(build_random_frame_encoder(depth, precision, "cpu"))
    bf16, fp32 = (functools.partial(encoder, pixels) for encoder in encoders)
    cosine = torch.cosine_similarity(bf16(), fp32()).min().item()
    assert cosine > 0.99, f"the features differ: cosine {cosine}"
    return _compare(
        f"{num_frames} frames encoded, bf16, ViT of {depth} blocks",
        bf16,
        fp32,
        rounds,
        f"cosine with fp32's features at least {cosine:.5f}",
    )


def _benchmark_step(B: int, smoothing_scope: str, rounds: int, med_config: str) -> Row:
    frames, tokens = (lengths[:B].tolist() for lengths in draw_lengths(NUM_TRAINING_VIDEOS, seed=1))
    model = build_full_size_model(smoothing_scope=smoothing_scope, med_config=med_config).train()
    embeddings, mask, labels = draw_videos(frames)
    ids = draw_captions(tokens, model)

    def compute_losses() -> Losses:
        loss_tsum, loss_vsum = model(embeddings, mask, labels, ids)
        return loss_tsum, loss_vsum

    bf16, fp32 = (
        build_training_step(model, compute_losses, CPU, precision, fused=True) for precision in COMPARED_PRECISIONS
    )
    return _compare(f"training step, bf16, B = {B}, smoothing {smoothing_scope}", bf16, fp32, rounds)
