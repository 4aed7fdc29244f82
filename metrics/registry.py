"""The table of VideoXum's metrics (those of TVSum and SumMe are in `metrics.shots`): how each is computed and printed,
and which part of a prediction it needs.

To add a metric, write its function in a module of this package, and its row in `METRICS`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from metrics import captions, keyframes
from metrics.captions import CaptionCorpus
from metrics.keyframes import AnnotatorLabels

PredictionField = Literal["saliency", "caption", "vt_clip_score", "f_clip", "cross_f_clip"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: also its key in result files.
        needs: field of a prediction that it is computed from.
        compute: for `saliency`, (N, T) scores and the annotators' labels of one video -> name -> (N,); for `caption`,
            references and captions of all videos -> name -> (score of the split, scores of the videos). Scores are
            finite, 0 if undefined. Metrics that are computed together share one function, whose keys are their names.
            None for scores that are part of predictions.
        human: required for `saliency`: labels -> name -> (R,), each annotator scored against the others.
        compute_selection: for `saliency`: (N, T) selected frames in {0, 1} and labels -> name -> (N,), for systems that
            predict a set of frames; None for metrics of a ranking.
        scale: factor of the printed value.
        digits: decimal digits of the printed value.
        is_corpus: whether the score of a split is computed over all its captions, not the mean of its videos' scores.
        is_in_paper: a column of the paper's tables; reports and model cards show these, others on request.
        published_name: key in `evaluate_{split}.txt`, as in the released script; None omits it.
    """

    name: str
    needs: PredictionField
    compute: Callable[..., Any] | None = None
    human: Callable[[AnnotatorLabels], dict[str, np.ndarray]] | None = None
    compute_selection: Callable[[np.ndarray, AnnotatorLabels], dict[str, np.ndarray]] | None = None
    scale: float = 100
    digits: int = 1
    is_corpus: bool = False
    is_in_paper: bool = False
    published_name: str | None = None


_f1_metric = functools.partial(
    Metric,
    needs="saliency",
    compute=keyframes.f1_scores,
    human=keyframes.human_f1_scores,
    compute_selection=keyframes.selection_f1_scores,
)
_published_f1_metric = functools.partial(
    Metric, needs="saliency", compute=keyframes.f1_published_scores, human=keyframes.human_f1_published_scores
)
_rank_metric = functools.partial(
    Metric,
    needs="saliency",
    compute=keyframes.rank_correlations,
    human=keyframes.human_rank_correlations,
    scale=1,
    digits=3,
    is_in_paper=True,
)
_bleu_metric = functools.partial(Metric, needs="caption", compute=captions.bleu, is_corpus=True)

METRICS = {
    metric.name: metric
    for metric in (
        _f1_metric("F1", is_in_paper=True),
        _f1_metric("F1_max"),
        _published_f1_metric("F1_published", published_name="F1_MEAN"),
        _published_f1_metric("F1_published_max", published_name="F1_MAX"),
        _rank_metric("Kendall", published_name="Kendall"),
        _rank_metric("Spearman", published_name="Spearman"),
        _bleu_metric("BLEU_1", published_name="val_Bleu_1"),
        _bleu_metric("BLEU_2", published_name="val_Bleu_2"),
        _bleu_metric("BLEU_3", published_name="val_Bleu_3"),
        _bleu_metric("BLEU_4", published_name="val_Bleu_4", is_in_paper=True),
        Metric("METEOR", "caption", captions.meteor, is_corpus=True, is_in_paper=True, published_name="val_METEOR"),
        Metric("ROUGE_L", "caption", captions.rouge_l, is_in_paper=True, published_name="val_ROUGE_L"),
        Metric("CIDEr", "caption", captions.cider, is_in_paper=True, published_name="val_CIDEr"),
        Metric("VT_CLIPScore", "vt_clip_score", is_in_paper=True, published_name="VT_CLIPScore"),
        Metric("F_CLIP", "f_clip"),
        Metric("Cross-F_CLIP", "cross_f_clip"),
    )
}
CLIP_METRICS = tuple(name for name, metric in METRICS.items() if metric.compute is None)  # in the space of an encoder
PAPER_METRICS = tuple(name for name, metric in METRICS.items() if metric.is_in_paper)
UNSCALED_METRICS = tuple(name for name, metric in METRICS.items() if metric.scale == 1)


def metric_names_for(field: PredictionField) -> tuple[str, ...]:
    """Return the names of the metrics that are computed from a field of predictions."""
    return tuple(name for name, metric in METRICS.items() if metric.needs == field)


def compute_functions_for(field: PredictionField) -> list[Callable[..., Any]]:
    """Return the functions that compute these metrics, each once."""
    functions = (metric.compute for metric in METRICS.values() if metric.needs == field)
    return list(dict.fromkeys(function for function in functions if function is not None))


def format_score(name: str, value: float, sign: str = "") -> str:
    """Format a score as the paper does: τ and ρ with three digits, others times 100 with one digit.

    `sign` is "+" to show the sign of positive values, too.
    """
    metric = METRICS[name]
    return f"{metric.scale * value:{sign}.{metric.digits}f}"


def keyframe_scores(saliency: np.ndarray, labels: AnnotatorLabels) -> dict[str, float]:
    """Compute all key-frame scores of one video, by name.

    Args:
        saliency: (T,) float.
        labels: labels of its R annotators.
    Raises:
        ValueError: the lengths differ, T is 0, or a score is not finite.
    """
    saliency, _ = keyframes.check_scores(saliency, labels.keyframes, "keyframes")
    return {name: float(values[0]) for name, values in score_rows(saliency[None], labels).items()}


def score_rows(saliency: np.ndarray, labels: AnnotatorLabels) -> dict[str, np.ndarray]:
    """Compute all key-frame scores of N saliency rows (N, T) of one video: name -> (N,)."""
    scores: dict[str, np.ndarray] = {}
    for compute in compute_functions_for("saliency"):
        scores |= compute(saliency, labels)
    return {name: scores[name] for name in metric_names_for("saliency")}


def score_selections(selected: np.ndarray, labels: AnnotatorLabels) -> dict[str, np.ndarray]:
    """Compute the scores of N sets of selected frames (N, T) in {0, 1} of one video: name -> (N,)."""
    functions = dict.fromkeys(metric.compute_selection for metric in METRICS.values() if metric.compute_selection)
    return {name: values for function in functions for name, values in function(selected, labels).items()}


def caption_scores(
    generated: Mapping[str, str], references: Mapping[str, str | Sequence[str]]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Score captions against one or several references each.

    Args:
        generated: video -> caption.
        references: the same videos, in any order -> cleaned reference caption, or a list of them. CIDEr weights n-grams
            by their rarity among all references: it depends on the whole split.
    Returns:
        Scores of the split by metric, and scores per video: video -> metric -> score.
    Raises:
        ValueError: the videos differ, or no reference has a word.
        FileNotFoundError: see `require_java`.
        OSError: a Java program failed.
    """
    return score_corpus(captions.tokenize_corpus(generated, references))


def score_corpus(corpus: CaptionCorpus) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Compute all caption scores of tokenized captions; returns as `caption_scores`."""
    scores: captions.CaptionScores = {}
    for compute in compute_functions_for("caption"):
        scores |= compute(corpus.references, corpus.generated)
    names = metric_names_for("caption")
    split_scores = {name: float(scores[name][0]) for name in names}
    per_video = {v: {name: float(scores[name][1][i]) for name in names} for i, v in enumerate(corpus.references)}
    return split_scores, per_video
