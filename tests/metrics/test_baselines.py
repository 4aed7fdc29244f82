"""Baselines against explicit examples and loops."""

import numpy as np
import pytest
from pycocoevalcap.cider.cider import Cider

from metrics import baselines
from metrics.alignment import clip_similarity, f_clip, matching_f1
from metrics.baselines import (
    BASELINES,
    constant_baseline,
    f_clip_baselines,
    human_baseline,
    middle_baseline,
    random_baseline,
    shuffled_baseline,
    uniform_baseline,
)
from metrics.captions import CaptionCorpus, tokenize_corpus
from metrics.keyframes import AnnotatorLabels
from metrics.registry import METRICS, score_corpus


def mark(seconds, T=40):
    row = np.zeros(T)
    row[seconds] = 1
    return row


def make_labels(*rows):
    return AnnotatorLabels.from_keyframes(np.stack(rows))


def test_uniform_and_middle_select_15_percent():
    labels = make_labels(mark([3, 10, 16]), mark([17, 18, 19, 20, 21, 22]))
    uniform, middle = uniform_baseline([labels]), middle_baseline([labels])
    # 6 of 40 frames: 3, 10, 16, 23, 30, 36 and 17 to 22
    assert uniform == pytest.approx(dict(F1=(2 * 3 / 9 + 0) / 2, F1_max=2 * 3 / 9))
    assert middle == pytest.approx(dict(F1=0.5, F1_max=1.0))


@pytest.mark.parametrize("T", [1, 2, 6, 7])
def test_short_videos_select_at_least_one_frame(T):
    labels = make_labels(np.ones(T))
    assert uniform_baseline([labels])["F1"] == middle_baseline([labels])["F1"] == pytest.approx(2 / (T + 1))


def test_human_row_requires_two_annotators(caplog):
    several, single = make_labels(mark([1, 2]), mark([2, 3])), make_labels(mark([5]))
    assert human_baseline([several, single]) == human_baseline([several])
    assert "left out 1 of 2 videos, which have one annotator" in caplog.text
    assert human_baseline([single]) == {}
    assert random_baseline([single])["F1"] > 0


def test_baselines_of_graded_labels_use_importance():
    rng = np.random.default_rng(0)
    importance = rng.random((3, 50))
    labels = AnnotatorLabels.from_importance(importance)
    assert labels.keyframes.sum(1).tolist() == [8, 8, 8]  # int(0.15 * 50) + 1, as F1 selects
    human = human_baseline([labels])
    others = [
        np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(importance.sum(0) - a)))[0, 1] for a in importance
    ]
    assert human["Spearman"] == pytest.approx(np.mean(others))


def test_f_clip_of_the_baselines():
    rng = np.random.default_rng(0)
    labels = [AnnotatorLabels.from_keyframes(rng.random((R, 30)) < 0.2) for R in (3, 1)]
    features = [rng.standard_normal((32, 8)) for _ in labels]  # two frames longer
    scores = f_clip_baselines(labels, features, seeds=[7])
    generator = np.random.default_rng(7)
    expected = {name: [] for name in ("random", "uniform", "middle", "human")}
    for video, frames in zip(labels, features):
        similarity = clip_similarity(frames[:30], frames[:30])
        saliency = generator.random(30)
        chosen = saliency >= np.sort(saliency)[-5]
        spread = np.isin(np.arange(30), [3, 11, 18, 26])
        middle = np.isin(np.arange(30), [13, 14, 15, 16])
        for name, selected in dict(random=chosen, uniform=spread, middle=middle).items():
            expected[name].append(f_clip(similarity, selected, video.keyframes))
        if len(video.keyframes) == 3:
            pairs = [(r, o) for r in range(3) for o in range(3) if r != o]
            rows = video.keyframes.astype(bool)
            expected["human"].append(np.mean([matching_f1(similarity[rows[r]][:, rows[o]]) for r, o in pairs]))
    assert scores == pytest.approx({name: np.mean(values) for name, values in expected.items()})


@pytest.fixture(scope="module")
def corpus():
    """Captions that equal their references; no word is in two of them."""
    words = [f"{letter}{letter}{letter}" for letter in "abcdefgh"]
    texts = {f"v{i}": f"{a} {a}x {a}y {a}z" for i, a in enumerate(words)}
    return tokenize_corpus(texts, texts)


def test_shuffled_captions_are_all_of_other_videos(corpus):
    assert score_corpus(corpus)[0]["BLEU_1"] == pytest.approx(1)
    shuffled = shuffled_baseline(corpus)
    assert set(shuffled) == {name for name, metric in METRICS.items() if metric.needs == "caption"}
    assert shuffled["BLEU_1"] == pytest.approx(0, abs=1e-6) and shuffled["CIDEr"] == 0


def test_shuffled_is_the_mean_over_seeds(corpus):
    mixed = CaptionCorpus(corpus.generated, {v: ["aaa bbb ccc ddd"] for v in corpus.references})
    each = [shuffled_baseline(mixed, [seed]) for seed in range(5)]
    assert shuffled_baseline(mixed)["ROUGE_L"] == pytest.approx(np.mean([row["ROUGE_L"] for row in each]))
    assert shuffled_baseline(mixed) == shuffled_baseline(mixed)


def test_single_video_has_no_caption_baselines():
    corpus = CaptionCorpus({"v": ["a dog"]}, {"v": ["a dog"]})
    assert shuffled_baseline(corpus) == constant_baseline(corpus) == {}


def test_constant_is_the_best_caption_of_the_others(monkeypatch):
    texts = dict(a="a man runs fast", b="a man runs home", c="a dog swims", d="red blue green", e="a man sits down")
    corpus = tokenize_corpus(texts, texts)
    scores = {}
    for video in texts:
        others = {other: texts for other, texts in corpus.references.items() if other != video}
        scores[video], _ = Cider().compute_score(others, dict.fromkeys(others, corpus.references[video]))
    best = max(scores.values())
    assert constant_baseline(corpus)["CIDEr"] == pytest.approx(best) and best > scores["d"]
    monkeypatch.setattr(baselines, "MAX_CONSTANT_CANDIDATES", 3)
    sampled = constant_baseline(corpus)
    assert sampled == constant_baseline(corpus) and sampled["CIDEr"] in [
        pytest.approx(value) for value in scores.values()
    ]


def test_table_of_baselines():
    assert list(BASELINES) == ["random", "human", "uniform", "middle", "shuffled", "constant"]
    assert [name for name, baseline in BASELINES.items() if baseline.depends_on_run] == ["shuffled"]
    assert all(baseline.description and name == baseline.name for name, baseline in BASELINES.items())
