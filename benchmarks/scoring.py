"""Key-frame scores of a split, compared with scikit-learn's and SciPy's for one video and annotator at a time.

Axes: R annotators, T frames.
"""

import concurrent.futures
import multiprocessing
import os
import time
import warnings

import numpy as np
import torch
from scipy import stats
from sklearn.metrics import f1_score

from benchmarks.machine import time_call
from benchmarks.records import Row
from benchmarks.workload import draw_lengths
from data.videoxum import NUM_ANNOTATORS
from metrics import AnnotatorLabels, human_baseline, keyframe_scores, random_baseline

MAX_PEER_VIDEOS = 100  # the peer would take minutes for all of them


def draw_saliency_and_labels(count: int) -> tuple[list[np.ndarray], list[AnnotatorLabels]]:
    """Draw saliency (T,) float64 and labels of `count` videos."""
    rng = np.random.default_rng(0)
    lengths, _ = draw_lengths(count, seed=3)
    labels = [AnnotatorLabels.from_keyframes(rng.random((NUM_ANNOTATORS, T)) < 0.15) for T in lengths]
    saliency = [rng.random(T) for T in lengths]
    return saliency, labels


def score_with_libraries(saliency: np.ndarray, labels: AnnotatorLabels) -> tuple[float, float, float]:
    """Compute F1, τ and ρ of one video with scikit-learn and SciPy; arguments as `keyframe_scores`'s."""
    selected = saliency >= np.sort(saliency)[::-1][int(0.15 * len(saliency))]
    keyframes, importance = labels.keyframes, labels.importance.mean(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        f1 = float(np.mean([f1_score(annotator, selected, zero_division=0) for annotator in keyframes]))
        kendall = stats.kendalltau(saliency, importance).statistic
        return f1, kendall, stats.spearmanr(saliency, importance).statistic


def measure_small_operations(executor: concurrent.futures.Executor, count: int) -> float:
    """Measure small tensor operations, such as the launches of GPU kernels, while an executor scores videos.

    Args:
        executor: with one worker.
        count: number of videos.
    Returns:
        Operations per second.
    """
    executor.submit(int).result()  # start the worker
    labels = draw_saliency_and_labels(count)[1]
    x, operations = torch.zeros(1), 0
    scores = executor.submit(human_baseline, labels)
    start = time.perf_counter()
    while not scores.done():
        x.add_(1)
        operations += 1
    return operations / (time.perf_counter() - start)


def benchmark_scoring_process(count: int = 1000) -> Row:
    """Compare the speed of a process that scores in a separate process with one that scores in a thread.

    Args:
        count: number of videos.
    """
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    with (
        concurrent.futures.ProcessPoolExecutor(1, context) as process,
        concurrent.futures.ThreadPoolExecutor(1) as thread,
    ):
        rates = [measure_small_operations(executor, count) for executor in (process, thread)]
    return Row(
        measurement="small operations while a separate process scores",
        project_value=rates[0],
        unit="per s",
        peer_value=rates[1],
        peer_name="while a thread scores",
        ratio=rates[0] / rates[1],
    )


def benchmark_scoring(count: int = 4000) -> list[Row]:
    """Score `count` videos, and the random and human baselines on them; compare a process with a thread."""
    saliency, labels = draw_saliency_and_labels(count)
    scores, project_seconds = time_call(lambda: [keyframe_scores(*video) for video in zip(saliency, labels)])
    peer_count = min(MAX_PEER_VIDEOS, count)
    peer_videos = list(zip(saliency[:peer_count], labels[:peer_count]))
    peer_scores, measured_seconds = time_call(lambda: [score_with_libraries(*video) for video in peer_videos])
    compared = [[video[name] for name in ("F1", "Kendall", "Spearman")] for video in scores[:peer_count]]
    error = np.abs(np.nan_to_num(peer_scores) - compared).max()
    assert error < 1e-12, f"scores differ by {error}"
    _, baseline_seconds = time_call(lambda: (random_baseline(labels), human_baseline(labels)))
    peer_seconds = measured_seconds * count / peer_count
    return [
        Row(
            measurement=f"F1, τ, ρ of {count} videos",
            project_value=project_seconds,
            peer_value=peer_seconds,
            unit="s",
            peer_name=f"scikit-learn, SciPy (timed on {peer_count})",
            ratio=peer_seconds / project_seconds,
            check=f"within {error:.0e}",
        ),
        Row(measurement=f"random and human rows of {count} videos", project_value=baseline_seconds, unit="s"),
        benchmark_scoring_process(max(1, count // 4)),
    ]
