import av
import numpy as np
import pytest

from data.features import load_features
from data.mini.dataset import build_vocabulary, draw_clip_features, write_mini
from data.mini.encoders import compute_text_features
from data.mini.plans import iter_sentences, plan_videos
from data.mini.rendering import PITCH_BY_COLOR, RGB_BY_COLOR, draw_frame
from data.registry import load_annotations
from data.video.preprocessing import preprocess
from data.video.reader import VideoFile, to_upright_rgb
from metrics.baselines import human_baseline, random_baseline
from metrics.keyframes import AnnotatorLabels
from models.frame_encoders import clip_frame_encoder
from models.vt_clip import load_vt_clip


def test_layout(mini_root):
    for split, count in dict(train=33, val=3, test=7).items():
        records = load_annotations(mini_root / f"anno/{split}_videoxum.json")
        assert len(records) == count
        for record in records:
            T = record.num_frames
            assert load_features(mini_root / "feat/blip", record.video_id, "features", 768).shape == (T, 768)
            assert load_features(mini_root / "feat/vt_clipscore", record.video_id, "vision", 512).shape == (T, 512)
            assert load_features(mini_root / "feat/vt_clipscore", record.video_id, "text", 512).shape == (1, 512)
            assert 0 < record.duration <= T
            assert 0.02 < record.vsum_onehot.mean() < 0.3


def test_the_same_seed_gives_the_same_data(mini_root, tmp_path):
    write_mini(tmp_path, counts=dict(train=33, val=3, test=7), ready_made=True)
    for path in sorted(mini_root.rglob("*.json")):
        assert path.read_bytes() == (tmp_path / path.relative_to(mini_root)).read_bytes()
    for path in sorted(mini_root.rglob("*.npz")):
        ours, again = np.load(path), np.load(tmp_path / path.relative_to(mini_root))
        assert all(np.array_equal(ours[name], again[name]) for name in ours.files)


def test_annotators_agree_but_not_perfectly(mini_root):
    records = load_annotations(mini_root / "anno/train_videoxum.json")
    labels = [AnnotatorLabels.from_keyframes(record.vsum_onehot) for record in records]
    human, chance = human_baseline(labels), random_baseline(labels)
    assert 2 * chance["F1"] < human["F1"] < 0.8
    assert 0.2 < human["Kendall"] < 0.8


def test_synthetic_vt_clip_features_are_nearest_at_the_peak():
    rng = np.random.default_rng(0)
    texts = {sentence: row / np.linalg.norm(row) for sentence in iter_sentences() for row in rng.normal(size=(1, 512))}
    for plan in plan_videos(0, dict(train=5))["train"]:
        features = draw_clip_features(plan, rng, texts)  # (T, C)
        for position, event in enumerate(plan.events):
            closeness = features @ texts[event.describe(position)]  # (T,)
            assert abs(closeness.argmax() + 0.5 - event.peak) < 2 and closeness.max() > 1.2
            assert closeness[: event.start].max() < 0.4


def test_vocabulary_has_no_duplicates():
    tokens = build_vocabulary()
    assert len(tokens) == len(set(tokens)) == 254
    assert {"circle", "bounces", "finally", "then"} <= set(tokens)


def test_videos(mini_videos):
    """Video files have the planned duration, the events' colors and a sound track of their pitch."""
    plans = [plan for split in plan_videos(0, dict(train=4, val=2, test=2)).values() for plan in split]
    assert sorted(p.name for p in mini_videos.iterdir()) == sorted(
        ["anno", "frame_encoder.pth", "tokenizer", "videos", "vt_clip.pth"]
    )
    for plan in plans[:3]:
        path = mini_videos / f"videos/{plan.video_id}.mp4"
        video = VideoFile(path)
        assert video.timeline.seconds == plan.num_frames
        assert video.timeline.duration == pytest.approx(plan.duration, abs=0.002)
        frames = {
            second: np.asarray(to_upright_rgb(frame)).astype(int) for second, frame in video.iter_sampled_frames()
        }
        for event in plan.events:
            inside = frames[(event.start + event.stop) // 2]
            strongest = np.argsort(RGB_BY_COLOR[event.color])[::-1][: 2 if event.color == "yellow" else 1]
            weakest = np.argsort(RGB_BY_COLOR[event.color])[0]
            assert (inside[..., strongest].min(-1) - inside[..., weakest]).max() > 80, event
            level = {second: np.median(frames[second]) for second in (int(event.peak), event.start)}
            assert level[int(event.peak)] > level[event.start]
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            (stream,) = container.streams.audio
            frames = [(float(f.time), f.to_ndarray()[0], f.rate) for f in container.decode(stream)]
        event = plan.events[0]
        near = np.concatenate([samples for time, samples, _ in frames if abs(time - event.peak) < 0.5])
        crossings = ((near[:-1] < 0) & (near[1:] >= 0)).sum() / len(near) * frames[0][2]
        assert crossings == pytest.approx(PITCH_BY_COLOR[event.color], rel=0.03)


def test_the_fitted_vt_clip_tells_events_apart(mini_videos):
    """Features of frames are nearest to the sentence of their event, far more often than by chance."""
    clip = load_vt_clip(mini_videos / "vt_clip.pth")
    encoder = clip_frame_encoder(clip)
    sentences = compute_text_features(
        clip, [s for s in iter_sentences() if not s.lower().startswith(("then", "finally"))]
    )
    names, texts = list(sentences), np.stack(list(sentences.values()))
    hits, count = 0, 0
    for plan in plan_videos(0, dict(train=4, val=2, test=2))["train"]:
        for event in plan.events:
            frame = preprocess(draw_frame(plan, event.peak), encoder.transform)
            feature = encoder(np.stack([frame]))[0].numpy()
            hits += names[int((texts @ feature).argmax())] == event.describe(0)
            count += 1
    assert len(names) == 60 and hits > count / 2
