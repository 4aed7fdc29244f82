"""Baselines of VideoXum's metrics: scores that random, trivial and human summaries reach.

`BASELINES` is the table of all of them. To add one, write its function and its row.

Axes: N videos, R annotators, T frames at 1 fps.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np

from metrics.alignment import clip_similarity, f_clip
from metrics.captions import CaptionCorpus, cider
from metrics.keyframes import AnnotatorLabels, average, frame_budget, select_top_rows
from metrics.registry import METRICS, score_corpus, score_rows, score_selections

logger = logging.getLogger(__name__)

SEEDS = range(5)
MAX_CONSTANT_CANDIDATES = 100  # the number of scored pairs is its square


def random_baseline(labels: Sequence[AnnotatorLabels], seeds: Iterable[int] = SEEDS) -> dict[str, float]:
    """Score uniform random saliency, averaged over videos and seeds.

    Args:
        labels: labels of N videos.
        seeds: random seeds; each scores all videos once.
    """
    generators = [np.random.default_rng(seed) for seed in seeds]
    scores = []
    for video in labels:
        saliency = np.stack([rng.random(video.keyframes.shape[1]) for rng in generators])
        scores.append(_means(score_rows(saliency, video)))
    return average(scores)


def human_baseline(labels: Sequence[AnnotatorLabels]) -> dict[str, float]:
    """Score each annotator against the others, averaged over annotators and videos.

    Args:
        labels: labels of N videos; those of a single annotator are left out.
    Returns:
        {} if no video has two annotators.
    """
    videos = [video for video in labels if video.num_annotators > 1]
    if len(videos) < len(labels):
        logger.warning(
            "human baseline: left out %d of %d videos, which have one annotator", len(labels) - len(videos), len(labels)
        )
    if not videos:
        return {}
    functions = list(dict.fromkeys(metric.human for metric in METRICS.values() if metric.human is not None))
    scores = []
    for video in videos:
        values_by_name = {name: values for human in functions for name, values in human(video).items()}
        scores.append(_means({name: values_by_name[name] for name in METRICS if name in values_by_name}))
    return average(scores)


def uniform_baseline(labels: Sequence[AnnotatorLabels]) -> dict[str, float]:
    """Score evenly spaced frames, max(1, int(0.15 T)) of them; arguments as of `random_baseline`."""
    return _selection_baseline(labels, uniform_frames)


def middle_baseline(labels: Sequence[AnnotatorLabels]) -> dict[str, float]:
    """Score the frames in the middle, max(1, int(0.15 T)) of them; arguments as of `random_baseline`."""
    return _selection_baseline(labels, middle_frames)


def uniform_frames(T: int) -> np.ndarray:
    """Select evenly spaced frames, max(1, int(0.15 T)) of T: (T,) bool."""
    count = max(1, frame_budget(T))
    return np.isin(np.arange(T), ((np.arange(count) + 0.5) * T / count).astype(int))


def middle_frames(T: int) -> np.ndarray:
    """Select the frames in the middle, max(1, int(0.15 T)) of T: (T,) bool."""
    count = max(1, frame_budget(T))
    first = (T - count) // 2
    return (np.arange(T) >= first) & (np.arange(T) < first + count)


def _selection_baseline(labels: Sequence[AnnotatorLabels], select: Callable[[int], np.ndarray]) -> dict[str, float]:
    """Score the frames that `select` returns for T."""
    scores = []
    for video in labels:
        selected = select(video.keyframes.shape[1])[None].astype(np.float64)  # (1, T)
        scores.append(_means(score_selections(selected, video)))
    return average(scores)


def f_clip_baselines(
    labels: Sequence[AnnotatorLabels], features: Iterable[np.ndarray], seeds: Iterable[int] = SEEDS
) -> dict[str, float]:
    """Compute F_CLIP of the key-frame baselines, whose frames are those of their F1.

    Args:
        labels: labels of N videos.
        features: (T, C) CLIP features of the frames of each video; if their length is not that of the labels, both are
            cut to the shorter.
        seeds: as of `random_baseline`.
    Returns:
        baseline -> F_CLIP, averaged over the videos; without `human` if no video has two annotators.
    """
    generators = [np.random.default_rng(seed) for seed in seeds]
    scores: dict[str, list[float]] = {}
    for video, frames in zip(labels, features):
        T = min(len(frames), video.keyframes.shape[1])
        keyframes, similarity = video.keyframes[:, :T], clip_similarity(frames[:T], frames[:T])
        random_sets = select_top_rows(np.stack([rng.random(T) for rng in generators])).astype(bool)  # (seeds, T)
        values: dict[str, float | np.floating] = dict(
            random=np.mean([f_clip(similarity, selected, keyframes) for selected in random_sets]),
            uniform=f_clip(similarity, uniform_frames(T), keyframes),
            middle=f_clip(similarity, middle_frames(T), keyframes),
        )
        if len(keyframes) > 1:
            selections = keyframes.astype(bool)
            values["human"] = np.mean(
                [f_clip(similarity, selections[r], np.delete(keyframes, r, axis=0)) for r in range(len(keyframes))]
            )
        for name, value in values.items():
            scores.setdefault(name, []).append(float(value))
    return {name: float(np.mean(values)) for name, values in scores.items()}


def shuffled_baseline(corpus: CaptionCorpus, seeds: Iterable[int] = SEEDS) -> dict[str, float]:
    """Score the system's own captions after giving each to another video, averaged over seeds.

    Args:
        corpus: captions and references of N videos.
        seeds: random seeds; each draws a cyclic permutation of the videos.
    Returns:
        {} for a single video.
    """
    videos = list(corpus.generated)
    if len(videos) < 2:
        return {}
    scores = []
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(len(videos))
        source = {videos[i]: videos[j] for i, j in zip(order, np.roll(order, 1))}
        shuffled = {video: corpus.generated[source[video]] for video in videos}
        scores.append(score_corpus(CaptionCorpus(shuffled, corpus.references))[0])
    return average(scores)


def constant_baseline(corpus: CaptionCorpus) -> dict[str, float]:
    """Score one reference caption as the caption of all other videos.

    It is the first reference of a video with the best mean CIDEr on the other videos; of more than
    `MAX_CONSTANT_CANDIDATES` videos, the best of a fixed sample on the sample.

    Args:
        corpus: captions, which are not used, and references of N videos.
    Returns:
        {} for a single video.
    """
    videos = list(corpus.references)
    if len(videos) < 2:
        return {}
    sample = np.random.default_rng(0).permutation(len(videos))[:MAX_CONSTANT_CANDIDATES]
    candidates = {videos[i]: corpus.references[videos[i]] for i in sorted(sample)}

    def mean_cider(video: str) -> float:
        constant = _constant_corpus(candidates, video)
        return float(cider(constant.references, constant.generated)["CIDEr"][0])

    return score_corpus(_constant_corpus(corpus.references, max(candidates, key=mean_cider)))[0]


def _constant_corpus(references: dict[str, list[str]], video: str) -> CaptionCorpus:
    """All other videos, with the first reference of `video` as their caption."""
    others = {other: texts for other, texts in references.items() if other != video}
    return CaptionCorpus(dict.fromkeys(others, references[video][:1]), others)


@dataclasses.dataclass(frozen=True)
class Baseline:
    """One row of a table of scores.

    Attributes:
        name: also its key in result files.
        needs: `keyframes`: computed from the annotators' labels; `captions`: from a `CaptionCorpus`.
        compute: sequence of N labels, or corpus -> metric -> score of the split; {} if it is not defined.
        description: for legends.
        depends_on_run: whether it is computed from the system's predictions, not only from the annotations.
    """

    name: str
    needs: Literal["keyframes", "captions"]
    compute: Callable[[Any], dict[str, float]]
    description: str
    depends_on_run: bool = False


BASELINES = {
    baseline.name: baseline
    for baseline in (
        Baseline("random", "keyframes", random_baseline, "uniform random saliency, mean of five seeds"),
        Baseline("human", "keyframes", human_baseline, "each annotator against the others"),
        Baseline("uniform", "keyframes", uniform_baseline, "evenly spaced frames, 15% of the video"),
        Baseline("middle", "keyframes", middle_baseline, "the frames in the middle, 15% of the video"),
        Baseline(
            "shuffled",
            "captions",
            shuffled_baseline,
            "the system's captions, each given to another video, mean of five seeds",
            depends_on_run=True,
        ),
        Baseline("constant", "captions", constant_baseline, "one reference caption for all other videos"),
    )
}


def _means(scores: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in scores.items()}
