"""Scores in the space of VT-CLIP, on mini VideoXum."""

import numpy as np
import pytest
import torch

from data.registry import load_annotations
from engine.alignment import add_clip_scores
from engine.predictions import Prediction
from engine.scoring import build_labels
from metrics.alignment import clip_similarity, cross_f_clip, f_clip, vt_clip_score
from models.vt_clip import load_vt_clip
from utils.text import split_sentences


@pytest.fixture(scope="module")
def videos(mini_root):
    """Records, VT-CLIP features of their frames, and VT-CLIP."""
    records = load_annotations(mini_root / "anno/test_videoxum.json")
    vision = [np.load(mini_root / f"feat/vt_clipscore/{r.video_id}.npz")["vision"] for r in records]
    return records, vision, load_vt_clip(mini_root / "vt_clip.pth")


def encode(vt_clip, texts):
    with torch.no_grad():
        return vt_clip.encode_text(texts).numpy()


@torch.no_grad()
def test_scores_equal_the_metrics(videos):
    records, vision, vt_clip = videos
    rng = np.random.default_rng(0)
    predictions = [
        Prediction(
            video_id=r.video_id, caption=f"A red circle {i}. It spins.", saliency=rng.random(r.num_frames).tolist()
        )
        for i, r in enumerate(records)
    ]
    scored = add_clip_scores(predictions, records, vision, vt_clip)
    for prediction, record, frames in zip(scored, records, vision):
        text = torch.from_numpy(encode(vt_clip, [prediction.caption]))
        saliency, T = torch.tensor([prediction.saliency]), record.num_frames
        expected = vt_clip_score(saliency, [T], torch.from_numpy(frames)[None], text).item()
        assert prediction.vt_clip_score == pytest.approx(expected, abs=1e-6)
        labels = build_labels(record)
        ranked = np.argsort(-np.array(prediction.saliency), kind="stable")[: int(0.15 * T) + 1]
        selected = np.isin(np.arange(T), ranked)
        assert prediction.f_clip == pytest.approx(f_clip(clip_similarity(frames, frames), selected, labels.keyframes))
        references, generated = encode(vt_clip, record.tsum), encode(vt_clip, split_sentences(prediction.caption))
        expected = cross_f_clip(frames, selected, labels.keyframes, [references], generated)
        assert prediction.cross_f_clip == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
def test_sets_of_frames_and_features_of_another_length(videos):
    (record, *_), (frames, *_), vt_clip = videos
    prediction = Prediction(video_id=record.video_id, caption="a red circle", keyframes=[2, 5, 6])
    short = frames[:6]
    (scored,) = add_clip_scores([prediction], [record], [short], vt_clip)
    text = encode(vt_clip, ["a red circle"])[0]
    mean = short[[2, 5]].mean(0)
    cosine = mean @ text / np.linalg.norm(mean) / np.linalg.norm(text)
    assert scored.vt_clip_score == pytest.approx(cosine, abs=1e-6)
    selected, keyframes = np.isin(np.arange(6), [2, 5]), record.vsum_onehot[:, :6]
    assert scored.f_clip == pytest.approx(f_clip(clip_similarity(short, short), selected, keyframes))
    (empty,) = add_clip_scores([prediction.model_copy(update=dict(keyframes=[]))], [record], [frames], vt_clip)
    assert empty.vt_clip_score == empty.f_clip == 0


@torch.no_grad()
def test_scores_need_their_inputs(videos):
    (record, *_), (frames, *_), vt_clip = videos
    prediction = Prediction(video_id=record.video_id, caption="a red circle", keyframes=[2])

    def scored_fields(prediction, *arguments):
        (scored,) = add_clip_scores([prediction], [record], [frames], *arguments)
        return {name for name in ("vt_clip_score", "f_clip", "cross_f_clip") if getattr(scored, name) is not None}

    assert scored_fields(prediction, vt_clip) == {"vt_clip_score", "f_clip", "cross_f_clip"}
    assert scored_fields(prediction, None) == {"f_clip"}
    assert scored_fields(prediction.model_copy(update=dict(caption=None)), vt_clip) == {"f_clip"}
    assert scored_fields(prediction.model_copy(update=dict(keyframes=None)), vt_clip) == set()
    assert scored_fields(prediction, vt_clip, ["captions"]) == {"vt_clip_score"}
    assert scored_fields(prediction, vt_clip, ["keyframes"]) == {"vt_clip_score", "f_clip"}


def test_texts_are_split_into_sentences():
    assert split_sentences(" A dog runs. It stops!  Why? 3.5 m ") == ["A dog runs.", "It stops!", "Why?", "3.5 m"]
    assert split_sentences("") == [] and split_sentences("a dog runs") == ["a dog runs"]
