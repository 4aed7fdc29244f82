"""Write mini VideoXum, a small data set in the published layout: `python -m data.mini OUT [--seed 0]`.

160 videos of coloured shapes. Each has two or three events: a shape of some colour does something, with a high
point. Ten annotators choose frames around the high points and agree as people do, not perfectly; captions come from a
small grammar. Beside the data lie a tokeniser for that grammar, a small frame encoder in BLIP's layout with random
weights, and a tiny VT-CLIP.

    OUT/videos/{video_id}.mp4
    OUT/anno/{train,val,test}_videoxum.json
    OUT/tokenizer/vocab.txt
    OUT/frame_encoder.pth, OUT/vt_clip.pth

`extract_features.py` makes the features. With --ready_made they are drawn without any video:

    OUT/feat/blip/{video_id}.npz            features (T, 768)
    OUT/feat/vt_clipscore/{video_id}.npz    vision (T, 512), text (1, 512)
"""

import dataclasses
import itertools
import json
import pathlib
import string

import numpy as np
import torch

from data.annotations import ANNOTATORS
from data.captions import reference_caption
from data.mini.encoders import (
    CLIP_WIDTH,
    FEATURE_WIDTH,
    fitted_to_pictures,
    text_features,
    tiny_frame_encoder,
    tiny_vt_clip,
)
from data.mini.rendering import render
from metrics.keyframes import BUDGET
from models.vt_clip import load_vt_clip
from utils.files import atomic_write
from utils.log import progress_bar

SPLITS = dict(train=96, val=24, test=40)
COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "triangle")
ACTIONS = ("bounces", "spins", "grows", "slides", "blinks")
OPENINGS = ("", "then ", "finally ")
VOCABULARY_SIZE = 254  # with [DEC] and [ENC] the 256 of configs/med_config_mini.json


@dataclasses.dataclass(frozen=True)
class Event:
    """A shape acts from second `start` to second `stop`; `peak` is its high point in seconds."""

    colour: str
    shape: str
    action: str
    start: int
    stop: int
    peak: float

    def sentence(self, place):
        """What an annotator would write about the event, the `place`-th of its video."""
        return f"{OPENINGS[place]}a {self.colour} {self.shape} {self.action}.".capitalize()

    def strength(self, seconds):
        """Closeness to the high point at times, 1 at it; 0 outside the event."""
        spread = 0.12 * (self.stop - self.start) + 0.8
        bump = np.exp(-0.5 * ((seconds - self.peak) / spread) ** 2)
        return bump * ((seconds >= self.start) & (seconds < self.stop))


@dataclasses.dataclass(frozen=True)
class Video:
    """A plan of one video: `frames` seconds with events one after another."""

    video_id: str
    duration: float
    frames: int
    events: tuple[Event, ...]

    @property
    def middles(self):
        """(T,) the middle of each second."""
        return np.arange(self.frames) + 0.5

    @property
    def tsum(self):
        return [event.sentence(place) for place, event in enumerate(self.events)]


def plan_videos(seed, counts):
    """Draw the videos of all splits: dictionary from split to list of `VideoFile`, `counts` of them."""
    rng = np.random.default_rng(seed)
    return {split: [_plan(rng, f"mini_{split}_{i:03d}") for i in range(count)] for split, count in counts.items()}


def _plan(rng, video_id):
    events, second, count = [], 0, int(rng.integers(2, 4))
    for _ in range(count):
        start = second + int(rng.integers(1, 4))
        stop = start + int(rng.integers(8, 17))
        peak = start + rng.uniform(0.2, 0.8) * (stop - start)
        what = (COLOURS[rng.integers(4)], SHAPES[rng.integers(3)], ACTIONS[rng.integers(5)])
        events.append(Event(*what, start, stop, float(peak)))
        second = stop
    frames = second + int(rng.integers(1, 4))
    return Video(video_id, round(frames - float(rng.uniform(0, 0.9)), 2), frames, tuple(events))


def annotate(video, rng):
    """Let ten annotators choose key-frames: one entry of the annotation file.

    Each spends about 15 % of the video in windows near the high points, misses some of those by a few seconds and
    now and then leaves an event out.
    """
    onehot = np.zeros((ANNOTATORS, video.frames), int)
    vsum = [[None] * ANNOTATORS for _ in video.events]
    for r in range(ANNOTATORS):
        kept = rng.random(len(video.events)) > 0.2
        kept[rng.integers(len(kept))] = True
        width = max(1.0, BUDGET * video.frames / kept.sum())
        for e, event in enumerate(video.events):
            if not kept[e]:
                vsum[e][r] = [float(event.start), float(event.start)]
                continue
            size = min(event.stop - event.start, width * rng.uniform(0.75, 1.25))
            centre = np.clip(event.peak + rng.normal(0, 1.6), event.start + size / 2, event.stop - size / 2)
            first, last = centre - size / 2, centre + size / 2
            onehot[r, round(first) : max(round(first) + 1, round(last))] = 1
            vsum[e][r] = [round(float(first), 2), round(float(last), 2)]
    return dict(
        video_id=video.video_id,
        duration=video.duration,
        sampled_frames=video.frames,
        timestamps=[[event.start, event.stop] for event in video.events],
        tsum=video.tsum,
        vsum=vsum,
        vsum_onehot=onehot.tolist(),
    )


def frame_features(video, rng, directions):
    """Features (T, 768) of a video: what each frame shows, how close a high point is, and noise."""
    features = 0.5 * rng.standard_normal((video.frames, FEATURE_WIDTH)) + directions["background"]
    for event in video.events:
        what = directions[event.colour] + directions[event.shape] + directions[event.action]
        features[event.start : event.stop] += what
        features += 1.5 * event.strength(video.middles)[:, None] * directions["high point"]
    return features.astype(np.float32)


def clip_features(video, rng, text_features):
    """VT-CLIP features (T, 512): near the text feature of what happens, nearest at the high point, and noise."""
    noise = rng.standard_normal((video.frames, CLIP_WIDTH)) / np.sqrt(CLIP_WIDTH)
    features = 0.7 * noise
    for place, event in enumerate(video.events):
        text = text_features[event.sentence(place)]
        inside = np.zeros(video.frames)
        inside[event.start : event.stop] = 0.5
        features = features + (inside + event.strength(video.middles))[:, None] * text
    return features.astype(np.float32)


def all_sentences():
    """Every sentence of the grammar."""
    for place, colour, shape, action in itertools.product(range(len(OPENINGS)), COLOURS, SHAPES, ACTIONS):
        yield Event(colour, shape, action, 0, 1, 0.0).sentence(place)


def vocabulary():
    """WordPiece vocabulary of the grammar: special tokens, letters for unknown words, whole words, unused rest."""
    words = {word for sentence in all_sentences() for word in reference_caption([sentence]).split()}
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase]
    tokens += [f"##{letter}" for letter in string.ascii_lowercase]
    tokens += sorted((words | {"a", "video", "of"}) - set(tokens))
    return tokens + [f"[unused{i}]" for i in range(VOCABULARY_SIZE - len(tokens))]


def write_mini(out, seed=0, counts=SPLITS, ready_made=False):
    """Write the data set, its tokeniser and its encoders; the same seed gives the same data.

    Args:
        out: root folder, created where it is missing.
        seed: of everything.
        counts: videos of each split.
        ready_made: write features drawn from the plans instead of videos and a frame encoder: fast, for tests.
    """
    out = pathlib.Path(out)
    for folder in ("anno", "tokenizer", *(("feat/blip", "feat/vt_clipscore") if ready_made else ("videos",))):
        (out / folder).mkdir(parents=True, exist_ok=True)
    with atomic_write(out / "tokenizer/vocab.txt") as file:
        file.write("\n".join(vocabulary()) + "\n")
    videos = plan_videos(seed, counts)
    rng = np.random.default_rng(seed + 1)
    clip = tiny_vt_clip(seed)
    if ready_made:
        _save(out / "vt_clip.pth", clip)
        write_features(out / "feat", videos, load_vt_clip(out / "vt_clip.pth"), rng)
    else:
        _save(out / "vt_clip.pth", fitted_to_pictures(clip, videos["train"][:40]))
        _save(out / "frame_encoder.pth", tiny_frame_encoder(seed, videos["train"][:40]))
        with progress_bar(
            [video for split in videos.values() for video in split], True, desc="render", unit="video"
        ) as bar:
            for video in bar:
                with atomic_write(out / "videos" / f"{video.video_id}.mp4", "wb") as file:
                    render(video, file)
    for split, plans in videos.items():
        entries = [annotate(video, rng) for video in plans]
        with atomic_write(out / "anno" / f"{split}_videoxum.json") as file:
            json.dump(entries, file)


def write_features(folder, videos, clip, rng):
    """Write ready-made features of all videos: dictionary from split to list of `VideoFile`."""
    plans = [video for split in videos.values() for video in split]
    captions = {video.video_id: reference_caption(video.tsum) for video in plans}
    texts = text_features(clip, sorted({*all_sentences(), *captions.values()}))
    names = ("background", "high point", *COLOURS, *SHAPES, *ACTIONS)
    directions = dict(zip(names, rng.standard_normal((len(names), FEATURE_WIDTH))))
    for video in plans:
        _write_npz(folder / "blip", video, features=frame_features(video, rng, directions))
        text = texts[captions[video.video_id]][None].astype(np.float32)
        _write_npz(folder / "vt_clipscore", video, vision=clip_features(video, rng, texts), text=text)


def _save(path, state):
    with atomic_write(path, "wb") as file:
        torch.save(dict(model=state), file)


def _write_npz(folder, video, **arrays):
    with atomic_write(folder / f"{video.video_id}.npz", "wb") as file:
        np.savez(file, **arrays)
