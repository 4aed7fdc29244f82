"""Growth of the cost with frames, tokens, beams, batch and videos, and the peak memory of a three-hour video.

Axes: B videos, T frames, K beams, L tokens.
"""

import functools
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.decoding import search_captions, widen_weights
from benchmarks.machine import measure_seconds, time_call
from benchmarks.records import Row
from benchmarks.scoring import draw_saliency_and_labels
from benchmarks.workload import FULL_SIZE_CONFIG, build_full_size_model, draw_videos
from metrics import keyframe_scores

THREE_HOURS = 10_800  # seconds, and frames at 1 fps


def fit_growth_exponent(sizes: Sequence[int], times: Sequence[float]) -> float:
    """Fit the exponent of the growth of time with size, by least squares on logarithms; 1 is linear."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def build_growth_row(variable: str, sizes: Sequence[int], times: Sequence[float]) -> Row:
    """Build the row of one variable.

    Args:
        variable: what grows.
        sizes: its values.
        times: in seconds, for each of these.
    """
    listed = ", ".join(f"{size}: {time:.2f} s" for size, time in zip(sizes, times))
    exponent = fit_growth_exponent(sizes, times)
    return Row(measurement=f"growth with {variable}", project_value=exponent, unit="power", check=listed)


def score_random_videos(count: int) -> list[dict[str, Any]]:
    """Draw and score the key-frames of `count` videos."""
    return [keyframe_scores(*video) for video in zip(*draw_saliency_and_labels(count))]


def benchmark_growth(
    device: torch.device,
    *,
    med_config: str = FULL_SIZE_CONFIG,
    frames: Sequence[int] = (1350, 2700, 5400, THREE_HOURS),
    batch_sizes: Sequence[int] = (4, 8, 16),
    tokens: Sequence[int] = (12, 20, 36),
) -> list[Row]:
    """Vary one size at a time on the full-size model.

    Args:
        device: device of the model.
        med_config: see `build_full_size_model`.
        frames: values of T.
        batch_sizes: values of B.
        tokens: values of L.
    """
    model = widen_weights(build_full_size_model(med_config=med_config).to(device))

    def draw_batch(lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        embeddings, mask, _ = draw_videos(lengths)
        return embeddings.to(device), mask.to(device)

    def time_encoding(T: int) -> float:
        embeddings, mask = draw_batch([T])
        with torch.no_grad():
            return measure_seconds(lambda: model.encode(embeddings, mask), device, 1)

    def time_decoding(B: int = 8, K: int = 3, L: int = 12, T: int = 120) -> float:
        embeddings, mask = draw_batch([T] * B)
        return measure_seconds(lambda: search_captions(model, embeddings, mask, num_beams=K, length=L), device, 1)

    beams = (1, 2, 4)
    counts = (500, 1000, 2000)
    scoring_times = [time_call(functools.partial(score_random_videos, count))[1] for count in counts]
    return [
        build_growth_row("frames, TT and CA (T² in the TT's attention)", frames, [time_encoding(T) for T in frames]),
        build_growth_row("videos of a batch, beam search", batch_sizes, [time_decoding(B=B) for B in batch_sizes]),
        build_growth_row("tokens, beam search", tokens, [time_decoding(L=L) for L in tokens]),
        build_growth_row("beams", beams, [time_decoding(K=K) for K in beams]),
        build_growth_row("videos that are scored", counts, scoring_times),
        benchmark_three_hour_video(),
    ]


def benchmark_three_hour_video() -> Row:
    """Measure the peak memory of summarizing a three-hour and a one-hour video, each in a new process."""
    one_hour, three_hours = (_measure_in_new_process(T) for T in (THREE_HOURS // 3, THREE_HOURS))
    return Row(
        measurement=f"peak memory, {THREE_HOURS} frames through generate",
        project_value=three_hours,
        unit="GB",
        check=f"one hour: {one_hour:.1f} GB",
    )


def _measure_in_new_process(T: int) -> float:
    words = [sys.executable, "-m", __name__, str(T)]
    completed = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(completed.stdout.split()[-1])


def measure_peak_memory(T: int) -> float:
    """Summarize a video of T frames and return the peak memory of this process in GB."""
    model = widen_weights(build_full_size_model())
    embeddings, mask, _ = draw_videos([T])
    _, saliency = model.generate(embeddings, mask, num_beams=3, max_length=16)
    assert saliency is not None and saliency.shape == (T,) and torch.isfinite(saliency).all()
    # Not getrusage, whose maximum includes the parent process before the fork.
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    print(measure_peak_memory(int(sys.argv[1])))
