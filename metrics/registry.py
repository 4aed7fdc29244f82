"""The table of all metrics: how each is computed, printed, and what it needs.

To add one, write its function in a module of this package and its row in `METRICS`.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np

from metrics import captions, keyframes

Need = Literal["saliency", "caption", "vt_clip_score"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: also its key in result files.
        needs: field of a prediction that it is computed from.
        compute: for `saliency`, (N, T) scores and (R, T) key-frames of one video -> name -> (N,); for `caption`,
            references and captions of all videos -> name -> (score of the split, scores of the videos). Metrics that
            are computed together share one function. None for `vt_clip_score`, which predictions hold.
        human: for `saliency`, (R, T) key-frames -> name -> (R,), each annotator scored against the others.
        scale: factor of the printed value.
        digits: of the printed value, behind the point.
        is_corpus: the score of a split is not the mean of its videos' scores, but counted over all words.
        is_in_paper: a column of the paper's tables.
        published_name: key in `evaluate_{split}.txt`, as the released script writes it; None leaves it out.
    """

    name: str
    needs: Need
    compute: Callable | None = None
    human: Callable | None = None
    scale: float = 100
    digits: int = 1
    is_corpus: bool = False
    is_in_paper: bool = False
    published_name: str | None = None


_F1 = dict(needs="saliency", compute=keyframes.f1_scores, human=keyframes.human_f1_scores)
_F1_PUBLISHED = dict(needs="saliency", compute=keyframes.f1_published_scores, human=keyframes.human_f1_published_scores)
_RANK = dict(
    needs="saliency",
    compute=keyframes.rank_correlations,
    human=keyframes.human_rank_correlations,
    scale=1,
    digits=3,
    is_in_paper=True,
)
_BLEU = dict(needs="caption", compute=captions.bleu, is_corpus=True)

METRICS = {
    metric.name: metric
    for metric in (
        Metric("F1", **_F1, is_in_paper=True),
        Metric("F1_max", **_F1),
        Metric("F1_published", **_F1_PUBLISHED, published_name="F1_MEAN"),
        Metric("F1_published_max", **_F1_PUBLISHED, published_name="F1_MAX"),
        Metric("Kendall", **_RANK, published_name="Kendall"),
        Metric("Spearman", **_RANK, published_name="Spearman"),
        Metric("BLEU_1", **_BLEU, published_name="val_Bleu_1"),
        Metric("BLEU_2", **_BLEU, published_name="val_Bleu_2"),
        Metric("BLEU_3", **_BLEU, published_name="val_Bleu_3"),
        Metric("BLEU_4", **_BLEU, published_name="val_Bleu_4", is_in_paper=True),
        Metric("METEOR", "caption", captions.meteor, is_corpus=True, is_in_paper=True, published_name="val_METEOR"),
        Metric("ROUGE_L", "caption", captions.rouge_l, is_in_paper=True, published_name="val_ROUGE_L"),
        Metric("CIDEr", "caption", captions.cider, is_in_paper=True, published_name="val_CIDEr"),
        Metric("VT_CLIPScore", "vt_clip_score", is_in_paper=True, published_name="VT_CLIPScore"),
    )
}
PAPER_METRICS = tuple(name for name, metric in METRICS.items() if metric.is_in_paper)


def metrics_that_need(field: Need) -> tuple[str, ...]:
    """Names of the metrics that are computed from a field of predictions."""
    return tuple(name for name, metric in METRICS.items() if metric.needs == field)


def functions_that_need(field: Need) -> list[Callable]:
    """The functions that compute these metrics, each once."""
    return list(dict.fromkeys(metric.compute for metric in METRICS.values() if metric.needs == field))


def format_score(name: str, value: float, sign: str = "") -> str:
    """Print a score as the paper does: τ and ρ with three digits, others times 100 with one; `sign` "+" shows both."""
    metric = METRICS[name]
    return f"{metric.scale * value:{sign}.{metric.digits}f}"


def keyframe_scores(saliency: np.ndarray, keyframe_rows: np.ndarray) -> dict[str, float]:
    """All key-frame scores of one video, by name.

    Args:
        saliency: (T,) float.
        keyframe_rows: (R, T) in {0, 1}, one row per annotator.
    Raises:
        ValueError: the lengths differ, T is 0, or a score is not finite.
    """
    saliency, keyframe_rows = keyframes.check_scores(saliency, keyframe_rows, "keyframes")
    return {name: float(values[0]) for name, values in score_rows(saliency[None], keyframe_rows).items()}


def score_rows(saliency: np.ndarray, keyframe_rows: np.ndarray) -> dict[str, np.ndarray]:
    """All key-frame scores of N scorings (N, T) of one video: name -> (N,)."""
    scores: dict[str, np.ndarray] = {}
    for compute in functions_that_need("saliency"):
        scores |= compute(saliency, keyframe_rows)
    return {name: scores[name] for name in metrics_that_need("saliency")}


def caption_scores(
    generated: dict[str, str], references: dict[str, str]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Score captions against one reference each.

    Args:
        generated: video -> caption.
        references: the same videos, in any order -> the cleaned reference caption. CIDEr weighs n-grams by their
            rarity among all of these, so it depends on the whole split.
    Returns:
        corpus scores by metric, and scores per video: video -> metric -> score.
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
        raise ValueError("captions: found no word in any reference, expected captions to compare with")
    scores: captions.Scores = {}
    for compute in functions_that_need("caption"):
        scores |= compute(truth, candidates)
    names = metrics_that_need("caption")
    corpus = {name: float(scores[name][0]) for name in names}
    per_video = {v: {name: float(scores[name][1][i]) for name in names} for i, v in enumerate(videos)}
    return corpus, per_video
