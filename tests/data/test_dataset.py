"""Dataset, batches and loaders on mini VideoXum."""

import itertools
import json
import shutil

import numpy as np
import pytest
import torch

from data import loaders
from data.captions import pre_caption
from data.collate import collate
from data.dataset import VideoXum
from data.loaders import EvalBatchSampler, TrainBatchSampler, ValidationBatchSampler, make_loader
from data.pack import pack_features


@pytest.fixture
def build_dataset(mini_root):
    def build(root=mini_root, split="train", clip=False, **options):
        if clip:
            options["clip_root"] = root / "feat/vt_clipscore"
        options = dict(width=768, prompt="a video of ") | options
        return VideoXum(root / f"anno/{split}_videoxum.json", root / "feat/blip", **options)

    return build


def test_samples_equal_annotations_and_features(build_dataset, mini_root):
    entries = json.loads((mini_root / "anno/train_videoxum.json").read_text())
    entries.sort(key=lambda entry: entry["duration"])
    whole, cut = build_dataset(), build_dataset(max_frames=20, max_words=4)
    assert len(whole) == len(entries) == 33
    for i in (0, 7, 32):
        sample, entry = whole[i], entries[i]
        assert sample.video_id == entry["video_id"] and sample.index == i
        assert sample.video_embeddings.shape == (entry["sampled_frames"], 768)
        assert sample.vsum_labels.tolist() == entry["vsum_onehot"]
        assert sample.caption == "a video of " + pre_caption("".join(entry["tsum"]), None)
        assert torch.equal(cut[i].video_embeddings, sample.video_embeddings[:20])
        assert torch.equal(cut[i].vsum_labels, sample.vsum_labels[:, :20])
        assert cut[i].caption == "a video of " + pre_caption("".join(entry["tsum"]), 4)


def copy_data(mini_root, tmp_path):
    return shutil.copytree(mini_root, tmp_path / "mini")


@pytest.mark.parametrize("change", [-3, 0, 4])
def test_samples_are_cut_to_the_shorter_of_blip_and_vt_clip_features(build_dataset, mini_root, tmp_path, change):
    root = copy_data(mini_root, tmp_path)
    before = build_dataset(root, "test", clip=True)[2]
    T = before.num_labels
    vision = np.random.default_rng(0).random((T + change, 512))
    np.savez(root / f"feat/vt_clipscore/{before.video_id}.npz", vision=vision, text=vision[:1])
    sample = build_dataset(root, "test", clip=True)[2]
    stop = min(T, T + change)
    assert len(sample.video_embeddings) == len(sample.clip_vision) == sample.vsum_labels.shape[1] == stop
    assert sample.num_labels == T
    assert len(build_dataset(root, "test")[2].video_embeddings) == T  # not cut without VT-CLIP features


def test_blip_features_of_another_length_raise(build_dataset, mini_root, tmp_path):
    root = copy_data(mini_root, tmp_path)
    sample = build_dataset(root)[0]
    T = len(sample.video_embeddings)
    np.savez(root / f"feat/blip/{sample.video_id}.npz", features=np.ones((T + 1, 768), np.float32))
    expected = f"{sample.video_id}.npz: video {sample.video_id}: features: found {T + 1} frames, expected {T}"
    with pytest.raises(ValueError, match=expected):
        build_dataset(root)[0]


def edit_annotations(root, split, change):
    """Apply `change` to every record of a split, given the record and its number."""
    path = root / f"anno/{split}_videoxum.json"
    entries = json.loads(path.read_text())
    for i, entry in enumerate(entries):
        change(entry, i)
    path.write_text(json.dumps(entries))


def test_training_compares_lengths_after_the_cut(build_dataset, mini_root, tmp_path):
    root = copy_data(mini_root, tmp_path)
    sample = build_dataset(root)[32]
    T = len(sample.video_embeddings)
    path = root / f"feat/blip/{sample.video_id}.npz"
    np.savez(path, features=np.ones((T + 1, 768), np.float32))
    cut = build_dataset(root, max_frames=T)
    cut.check_features()
    assert len(cut[32].video_embeddings) == cut[32].vsum_labels.shape[1] == T
    expected = f"{sample.video_id}.npz: video {sample.video_id}: features: found {T + 1} frames, expected {T}"
    for max_frames in (None, T + 1):
        with pytest.raises(ValueError, match=expected):
            build_dataset(root, max_frames=max_frames)[32]
        with pytest.raises(ValueError, match=expected):
            build_dataset(root, max_frames=max_frames).check_features()


@pytest.mark.parametrize("is_packed", [False, True])
def test_features_are_checked_by_their_headers(build_dataset, mini_root, tmp_path, is_packed):
    root = copy_data(mini_root, tmp_path)
    dataset = build_dataset(root)
    dataset.check_features()
    name = dataset.records[5].video_id
    np.savez(root / f"feat/blip/{name}.npz", features=np.ones((dataset.num_frames[5], 512), np.float32))
    if is_packed:
        ann_file = root / "anno/test_videoxum.json"
        pack_features(root / "feat/blip", [ann_file], root / "packed", field="features", dtype="float32")
        packed = VideoXum(ann_file, root / "packed", width=768, prompt="")
        packed.check_features()
        assert packed.features.shape(packed.records[0].video_id) == (packed.num_frames[0], 768)
        return
    for rank in range(3):  # each process checks its part
        if rank == 5 % 3:
            with pytest.raises(ValueError, match=f"video {name}: features: found shape .*512.*, expected .frames, 768"):
                build_dataset(root).check_features(rank, 3)
        else:
            build_dataset(root).check_features(rank, 3)
    (root / f"feat/blip/{name}.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=f"video {name}: features: damaged"):
        build_dataset(root).check_features()


def test_videos_may_differ_in_their_annotators(build_dataset, mini_root, tmp_path):
    root = copy_data(mini_root, tmp_path)

    def change(entry, i):
        entry["vsum_onehot"] = entry["vsum_onehot"][: 1 + i % 3]

    edit_annotations(root, "test", change)
    dataset = build_dataset(root, "test")
    samples = [dataset[i] for i in range(3)]
    counts = [len(sample.vsum_labels) for sample in samples]
    assert len(set(counts)) > 1 and max(counts) <= 3
    batch = collate(samples)
    assert batch.vsum_labels.shape[:2] == (3, max(counts)) and batch.vsum_labels.dtype == torch.float32
    for labels, sample, R in zip(batch.vsum_labels, samples, counts):
        T = sample.vsum_labels.shape[1]
        assert torch.equal(labels[:R, :T], sample.vsum_labels.float()) and labels[R:, :T].isnan().all()
    same = collate([sample for sample in samples if len(sample.vsum_labels) == counts[0]])
    assert same.vsum_labels.dtype == torch.uint8


def test_importance_references_and_missing_labels(build_dataset, mini_root, tmp_path):
    root = copy_data(mini_root, tmp_path)

    def change(entry, i):
        del entry["tsum"]
        entry["importance"] = (np.array(entry.pop("vsum_onehot"), float) / 4).tolist()
        entry["references"] = [f"Caption {i}: first.", "Second."]

    edit_annotations(root, "test", change)
    sample = build_dataset(root, "test")[0]
    assert sample.vsum_labels.dtype == torch.float32 and sample.vsum_labels.max() == 0.25
    assert sample.caption.startswith("a video of caption") and sample.caption.endswith("first")

    def remove(entry, i):
        del entry["importance"], entry["references"]

    edit_annotations(root, "test", remove)
    with pytest.raises(
        ValueError, match="vsum_onehot: missing, expected a row of 0 and 1 per annotator, or importance"
    ):
        build_dataset(root, "test", needs=("keyframes",))
    with pytest.raises(ValueError, match="tsum: missing, expected one sentence per segment, or references"):
        build_dataset(root, "test", needs=("captions",))
    bare = build_dataset(root, "test", needs=())
    assert bare.num_frames == build_dataset(mini_root, "test").num_frames  # read from the features
    batch = collate([bare[0], bare[1]])
    assert batch.vsum_labels.shape[1] == 0 and batch.captions == ["a video of "] * 2


def test_collate_pads_with_zeros(build_dataset, mini_model):
    tokenizer = mini_model().text_decoder.tokenizer
    samples = [build_dataset(split="test", clip=True, tokenize=tokenizer.encode)[i] for i in (6, 0, 3)]
    batch = collate(samples, pad_id=9)
    T = max(len(sample.video_embeddings) for sample in samples)
    L = max(len(sample.caption_ids) for sample in samples)
    assert batch.video_embeddings.shape == (3, T, 768) and batch.video_mask.shape == (3, T)
    assert batch.vsum_labels.shape == (3, 10, T) and batch.clip_vision.shape == (3, T, 512)
    assert batch.caption_ids.shape == (3, L)
    for i, sample in enumerate(samples):
        num_frames, num_tokens = len(sample.video_embeddings), len(sample.caption_ids)
        assert batch.lengths[i] == num_frames
        assert batch.video_mask[i].tolist() == [1] * num_frames + [0] * (T - num_frames)
        assert torch.equal(batch.video_embeddings[i, :num_frames], sample.video_embeddings)
        assert not batch.video_embeddings[i, num_frames:].any() and not batch.vsum_labels[i, :, num_frames:].any()
        assert batch.caption_ids[i].tolist() == sample.caption_ids + [9] * (L - num_tokens)
    assert batch.indices == [6, 0, 3] and batch.tsum_labels is batch.caption_ids
    assert batch.to("meta").vsum_labels.device.type == "meta"


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("bucketing", [False, True])
def test_ranks_partition_each_training_epoch(world_size, bucketing, monkeypatch):
    monkeypatch.setattr(loaders, "POOL_BATCHES", 5)
    lengths, options = [10 + 7 * i % 50 for i in range(50)], dict(seed=1, bucketing=bucketing)
    samplers = [TrainBatchSampler(lengths, 4, rank=r, world_size=world_size, **options) for r in range(world_size)]
    steps = 50 // (4 * world_size)
    epochs = []
    for epoch in (0, 1):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        batches_of_ranks = [list(sampler) for sampler in samplers]
        assert all(len(batches) == len(sampler) == steps for batches, sampler in zip(batches_of_ranks, samplers))
        flat = list(itertools.chain.from_iterable(itertools.chain.from_iterable(batches_of_ranks)))
        assert len(flat) == len(set(flat)) == steps * 4 * world_size
        epochs.append(batches_of_ranks)
    assert epochs[0] != epochs[1]
    assert list(samplers[0]) == epochs[1][0]  # the same epoch, the same order
    single = TrainBatchSampler(lengths, 4, rank=0, world_size=1, **options)
    single.set_epoch(1)
    interleaved = [batch for step in zip(*epochs[1]) for batch in step]
    # The batches and their order do not depend on the number of processes.
    assert interleaved == list(single)[: len(interleaved)]
    slots = sum(max(lengths[i] for i in batch) * 4 for batch in single)
    frames = sum(lengths[i] for batch in single for i in batch)
    assert single.padding_fraction(bucketing) == pytest.approx(1 - frames / slots)
    assert single.padding_fraction(True) < 0.2 < 0.25 < single.padding_fraction(False)
    with pytest.raises(
        ValueError, match="batch_size: found 40 on 2 processes, expected at most the 50 training videos"
    ):
        TrainBatchSampler(lengths, 40, rank=0, world_size=2, seed=1)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 5, 23])
def test_evaluation_samplers_yield_each_video_once(world_size, count):
    lengths = [10 + i * 30 for i in range(count)]
    samplers = [
        EvalBatchSampler(lengths, 4, rank=rank, world_size=world_size, singleton_threshold=512)
        for rank in range(world_size)
    ]
    batches = [batch for sampler in samplers for batch in sampler]
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(count))
    single = list(EvalBatchSampler(lengths, 4, rank=0, world_size=1, singleton_threshold=512))
    assert sorted(batches) == sorted(single)  # batches do not depend on the number of processes
    assert all(len(batch) == 1 for batch in single if any(lengths[i] > 512 for i in batch))


@pytest.mark.parametrize("bucketing", [False, True])
def test_validation_batches_are_composed_as_those_of_training(bucketing):
    """Every video once, in batches that do not depend on the number of processes, with as much padding."""
    lengths = [10 + 37 * i % 250 for i in range(203)]

    def list_batches(rank, world_size):
        options = dict(rank=rank, world_size=world_size, seed=1, bucketing=bucketing)
        return list(ValidationBatchSampler(lengths, 8, **options))

    single = list_batches(0, 1)
    assert sorted(itertools.chain.from_iterable(single)) == list(range(203))
    assert [len(batch) for batch in single] == [8] * 25 + [3]
    for world_size in (2, 3, 30):
        ranks = [list_batches(rank, world_size) for rank in range(world_size)]
        assert [batch for step in itertools.zip_longest(*ranks) for batch in step if batch] == single
    slots = sum(max(lengths[i] for i in batch) * len(batch) for batch in single)
    training = TrainBatchSampler(lengths, 8, rank=0, world_size=1, seed=1)
    assert 1 - sum(lengths) / slots == pytest.approx(training.padding_fraction(bucketing), abs=0.03)


def test_number_of_workers_does_not_change_batches(build_dataset):
    whole = build_dataset(split="test")
    lengths = [record.num_frames for record in whole.records]
    loads = []
    for workers in (0, 2):
        batches = EvalBatchSampler(lengths, 2, rank=0, world_size=1, singleton_threshold=512)
        loader = make_loader(whole, batches, num_workers=workers, pad_id=0, pin_memory=False)
        loads.append([(batch.video_ids, batch.video_embeddings.sum().item()) for batch in loader])
    assert loads[0] == loads[1] and len(loads[0]) == 4
