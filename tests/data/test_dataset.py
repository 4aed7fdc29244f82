"""The data set, its batches and its loaders, on mini VideoXum."""

import itertools
import json
import shutil

import numpy as np
import pytest
import torch

from data import loaders
from data.captions import reference_caption
from data.collate import collate
from data.dataset import VideoXum
from data.loaders import EvalBatches, TrainBatches, make_loader


@pytest.fixture
def dataset(mini_root):
    def build(root=mini_root, split="train", clip=False, **options):
        if clip:
            options["clip_root"] = root / "feat/vt_clipscore"
        options = dict(width=768, prompt="a video of ") | options
        return VideoXum(root / f"anno/{split}_videoxum.json", root / "feat/blip", **options)

    return build


def test_samples(dataset, mini_root):
    entries = json.loads((mini_root / "anno/train_videoxum.json").read_text())
    entries.sort(key=lambda entry: entry["duration"])
    whole, cut = dataset(), dataset(max_frames=20, max_words=4)
    assert len(whole) == len(entries) == 33
    for i in (0, 7, 32):
        sample, entry = whole[i], entries[i]
        assert sample.video_id == entry["video_id"] and sample.index == i
        assert sample.video_embeddings.shape == (entry["sampled_frames"], 768)
        assert sample.vsum_labels.tolist() == entry["vsum_onehot"]
        assert sample.caption == "a video of " + reference_caption(entry["tsum"])
        assert torch.equal(cut[i].video_embeddings, sample.video_embeddings[:20])
        assert torch.equal(cut[i].vsum_labels, sample.vsum_labels[:, :20])
        assert cut[i].caption == "a video of " + reference_caption(entry["tsum"], 4)


def copy_of(mini_root, tmp_path):
    return shutil.copytree(mini_root, tmp_path / "mini")


@pytest.mark.parametrize("change", [-3, 0, 4])
def test_vt_clip_features_of_another_length_cut_everything_to_the_shorter(dataset, mini_root, tmp_path, change):
    root = copy_of(mini_root, tmp_path)
    before = dataset(root, "test", clip=True)[2]
    T = before.num_labels
    vision = np.random.default_rng(0).random((T + change, 512))
    np.savez(root / f"feat/vt_clipscore/{before.video_id}.npz", vision=vision, text=vision[:1])
    sample = dataset(root, "test", clip=True)[2]
    stop = min(T, T + change)
    assert len(sample.video_embeddings) == len(sample.clip_vision) == sample.vsum_labels.shape[1] == stop
    assert sample.num_labels == T
    assert len(dataset(root, "test")[2].video_embeddings) == T  # without VT-CLIP nothing is cut


def test_blip_features_of_another_length_are_an_error(dataset, mini_root, tmp_path):
    root = copy_of(mini_root, tmp_path)
    sample = dataset(root)[0]
    T = len(sample.video_embeddings)
    np.savez(root / f"feat/blip/{sample.video_id}.npz", features=np.ones((T + 1, 768), np.float32))
    expected = f"{sample.video_id}.npz: video {sample.video_id}: features: found {T + 1} frames, expected {T}"
    with pytest.raises(ValueError, match=expected):
        dataset(root)[0]


def test_collate_pads_with_zeros(dataset, mini_model):
    tokenizer = mini_model().tokenizer
    samples = [dataset(split="test", clip=True, tokenize=tokenizer.encode)[i] for i in (6, 0, 3)]
    batch = collate(samples, pad_id=9)
    T, L = max(len(s.video_embeddings) for s in samples), max(len(s.caption_ids) for s in samples)
    assert batch.video_embeddings.shape == (3, T, 768) and batch.video_mask.shape == (3, T)
    assert batch.vsum_labels.shape == (3, 10, T) and batch.clip_vision.shape == (3, T, 512)
    assert batch.caption_ids.shape == (3, L)
    for i, sample in enumerate(samples):
        n, m = len(sample.video_embeddings), len(sample.caption_ids)
        assert batch.lengths[i] == n and batch.video_mask[i].tolist() == [1] * n + [0] * (T - n)
        assert torch.equal(batch.video_embeddings[i, :n], sample.video_embeddings)
        assert not batch.video_embeddings[i, n:].any() and not batch.vsum_labels[i, :, n:].any()
        assert batch.caption_ids[i].tolist() == sample.caption_ids + [9] * (L - m)
    assert batch.indices == [6, 0, 3] and batch.tsum_labels is batch.caption_ids
    assert batch.to("meta").vsum_labels.device.type == "meta"


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("bucketing", [False, True])
def test_training_batches_share_an_epoch(world_size, bucketing, monkeypatch):
    monkeypatch.setattr(loaders, "POOL_BATCHES", 5)
    lengths, how = [10 + 7 * i % 50 for i in range(50)], dict(seed=1, bucketing=bucketing)
    ranks = [TrainBatches(lengths, 4, rank=r, world_size=world_size, **how) for r in range(world_size)]
    steps = 50 // (4 * world_size)
    epochs = []
    for epoch in (0, 1):
        for rank in ranks:
            rank.set_epoch(epoch)
        videos = [list(rank) for rank in ranks]
        assert all(len(batches) == len(rank) == steps for batches, rank in zip(videos, ranks))
        flat = list(itertools.chain.from_iterable(itertools.chain.from_iterable(videos)))
        assert len(flat) == len(set(flat)) == steps * 4 * world_size
        epochs.append(videos)
    assert epochs[0] != epochs[1]
    assert list(ranks[0]) == epochs[1][0]  # the same epoch, the same order
    alone = TrainBatches(lengths, 4, rank=0, world_size=1, **how)
    alone.set_epoch(1)
    in_turn = [batch for step in zip(*epochs[1]) for batch in step]
    assert in_turn == list(alone)[: len(in_turn)]  # the same batches in the same order for any number of processes
    places = sum(max(lengths[i] for i in batch) * 4 for batch in alone)
    frames = sum(lengths[i] for batch in alone for i in batch)
    assert alone.padded_share(bucketing) == pytest.approx(1 - frames / places)
    assert alone.padded_share(True) < 0.2 < 0.25 < alone.padded_share(False)
    with pytest.raises(
        ValueError, match="batch_size: found 40 on 2 processes, expected at most the 50 training videos"
    ):
        TrainBatches(lengths, 40, rank=0, world_size=2, seed=1)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 5, 23])
def test_evaluation_never_repeats_or_drops_a_video(world_size, count):
    lengths = [10 + i * 30 for i in range(count)]
    parts = [EvalBatches(lengths, 4, rank=r, world_size=world_size, alone_above=512) for r in range(world_size)]
    dealt = [batch for part in parts for batch in part]
    assert sorted(itertools.chain.from_iterable(dealt)) == list(range(count))
    alone = list(EvalBatches(lengths, 4, rank=0, world_size=1, alone_above=512))
    assert sorted(dealt) == sorted(alone)  # the same videos meet, whatever the number of processes
    assert all(len(batch) == 1 for batch in alone if any(lengths[i] > 512 for i in batch))


def test_workers_change_nothing(dataset):
    whole = dataset(split="test")
    lengths = [whole.num_frames(i) for i in range(len(whole))]
    loads = []
    for workers in (0, 2):
        batches = EvalBatches(lengths, 2, rank=0, world_size=1, alone_above=512)
        loader = make_loader(whole, batches, num_workers=workers, pad_id=0, pin_memory=False)
        loads.append([(batch.video_ids, batch.video_embeddings.sum().item()) for batch in loader])
    assert loads[0] == loads[1] and len(loads[0]) == 4
