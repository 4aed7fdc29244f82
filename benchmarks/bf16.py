"""bfloat16 on a CPU, compared with the project's own float32: beam search, frame encoding, the training step, and the
results of the model that `make demo` trains.
"""

import functools
import json
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.decoding import search_captions, widen_weights
from benchmarks.extraction import build_random_frame_encoder
from benchmarks.machine import BF16_FLAGS, has_bf16_instructions, measure_alternately
from benchmarks.records import Row
from benchmarks.training import NUM_TRAINING_VIDEOS, Losses, build_training_step
from benchmarks.user_commands import REPOSITORY_FOLDER, run_python
from benchmarks.workload import FULL_SIZE_CONFIG, build_full_size_model, draw_captions, draw_lengths, draw_videos
from engine.predictions import Prediction, read_predictions
from utils.precision import PrecisionName

CPU = torch.device("cpu")
MINI_CHECKPOINT = REPOSITORY_FOLDER / "outputs/mini/checkpoint.pth"
COMPARED_PRECISIONS: tuple[PrecisionName, PrecisionName] = ("bf16", "fp32")


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
        *compare_results(MINI_CHECKPOINT),
        _benchmark_search(batch_size, L, rounds, med_config),
        _benchmark_encoding(2 * batch_size, depth, rounds),
        *(_benchmark_step(batch_size, scope, rounds, med_config) for scope in ("published", "scored")),
    ]


def compare_results(checkpoint: pathlib.Path) -> list[Row]:
    """Compare the scores of the model of `make demo` on its test split; nothing is compared if there is none.

    Args:
        checkpoint: the model.
    """
    if not checkpoint.is_file():
        print(f"bf16: results not compared: no file {checkpoint}; make demo writes it")
        return []
    scores: list[dict[str, float]] = []
    predictions: list[list[Prediction]] = []
    with tempfile.TemporaryDirectory() as folder:
        for precision in COMPARED_PRECISIONS:
            output_dir = f"{folder}/{precision}"
            argv = ["eval_v2vt_sum.py", "--config", "configs/mini.yaml", "--pretrained_model", str(checkpoint)]
            run_python([*argv, "--precision", precision, "--splits", "test", "--output_dir", output_dir])
            scores.append(json.loads(pathlib.Path(output_dir, "results_test.json").read_text())["metrics"])
            predictions.append(read_predictions(f"{output_dir}/predictions_test.jsonl"))
    pairs = list(zip(*predictions))
    equal_fraction = np.mean([low.caption == full.caption for low, full in pairs])
    differences = np.concatenate([np.subtract(low.saliency, full.saliency) for low, full in pairs])
    change = f"{equal_fraction:.0%} of {len(pairs)} captions are those of fp32; saliency differs by at most "
    change += f"{np.abs(differences).max():.3f}, on average {np.abs(differences).mean():.4f} (logits)"
    return [
        Row(
            measurement=f"{name} of mini VideoXum's test split, bf16",
            project_value=scores[0][name],
            unit="",
            peer_value=scores[1][name],
            peer_name="fp32",
            check=change if name == "F1" else None,
        )
        for name in ("F1", "Kendall", "Spearman", "CIDEr")
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
