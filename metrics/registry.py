"""The table of VideoXum's metrics (those of TVSum and SumMe are in `metrics.shots`): how each is computed and printed,
and which part of a prediction it needs.

To add a metric, write its function in a module of this package, and its row in `METRICS`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from metrics import captions, keyframes

PredictionField = Literal["saliency", "caption", "vt_clip_score"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: also its key in result files.
        needs: field of a prediction that it is computed from.
        compute: for `saliency`, (N, T) scores and (R, T) key-frames of one video -> name -> (N,); for `caption`,
            references and captions of all videos -> name -> (score of the split, scores of the videos). Scores are
            finite, 0 if undefined. Metrics that are computed together share one function, whose keys are their names.
            None for `vt_clip_score`, which is part of predictions.
        human: required for `saliency`: (R, T) key-frames -> name -> (R,), each annotator scored against the others.
        scale: factor of the printed value.
        digits: decimal digits of the printed value.
        is_corpus: whether the score of a split is computed over all its captions, not the mean of its videos' scores.
        is_in_paper: a column of the paper's tables; reports and model cards show these, others on request.
        published_name: key in `evaluate_{split}.txt`, as in the released script; None omits it.
    """

    name: str
    needs: PredictionField
    compute: Callable[..., Any] | None = None
    human: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None
    scale: float = 100
    digits: int = 1
    is_corpus: bool = False
    is_in_paper: bool = False
    published_name: str | None = None


_f1_metric = functools.partial(Metric, needs="saliency", compute=keyframes.f1_scores, human=keyframes.human_f1_scores)
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
    )
}
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


def keyframe_scores(saliency: np.ndarray, keyframe_rows: np.ndarray) -> dict[str, float]:
    """Compute all key-frame scores of one video, by name.

    Args:
        saliency: (T,) float.
        keyframe_rows: (R, T) in {0, 1}, one row per annotator.
    Raises:
        ValueError: the lengths differ, T is 0, or a score is not finite.
    """
    saliency, keyframe_rows = keyframes.check_scores(saliency, keyframe_rows, "keyframes")
    return {name: float(values[0]) for name, values in score_rows(saliency[None], keyframe_rows).items()}


def score_rows(saliency: np.ndarray, keyframe_rows: np.ndarray) -> dict[str, np.ndarray]:
    """Compute all key-frame scores of N saliency rows (N, T) of one video: name -> (N,)."""
    scores: dict[str, np.ndarray] = {}
    for compute in compute_functions_for("saliency"):
        scores |= compute(saliency, keyframe_rows)
    return {name: scores[name] for name in metric_names_for("saliency")}


def caption_scores(
    generated: dict[str, str], references: dict[str, str]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Score captions against one reference each.

    Args:
        generated: video -> caption.
        references: the same videos, in any order -> cleaned reference caption. CIDEr weights n-grams by their rarity
            among all references: it depends on the whole split.
    Returns:
        Scores of the split by metric, and scores per video: video -> metric -> score.
    Raises:
        ValueError: the videos differ, or no reference has a word.
        FileNotFoundError: see `require_java`.
        OSError: a Java program failed.
    """
    if generated.keys() != references.keys():
        raise ValueError(f"captions: found {len(generated)} videos, expected the {len(references)} of the references")
    captions.require_java()
    videos = list(references)
    tokens = captions.tokenize([generated[v] for v in videos] + [references[v] for v in videos])
    candidates = {v: [line] for v, line in zip(videos, tokens)}
    truth = {v: [line] for v, line in zip(videos, tokens[len(videos) :])}
    if not any(tokens[len(videos) :]):
        raise ValueError("captions: found no word in any reference, expected reference captions")
    scores: captions.CaptionScores = {}
    for compute in compute_functions_for("caption"):
        scores |= compute(truth, candidates)
    names = metric_names_for("caption")
    corpus = {name: float(scores[name][0]) for name in names}
    per_video = {v: {name: float(scores[name][1][i]) for name in names} for i, v in enumerate(videos)}
    return corpus, per_video
