"""Samples per second from packed features, beside `.npz` files, all of it in the machine's cache."""

import json
import pathlib
import tempfile
import time

import numpy as np

from benchmarks.workload import ANNOTATORS, WIDTH, draw_lengths
from data.features import NpzFeatures, PackedFeatures, open_features
from data.pack import pack


def write_data(root, count):
    """Write features and annotations of as many videos; returns their names."""
    rng = np.random.default_rng(0)
    (root / "npz").mkdir()
    records = []
    for i, T in enumerate(draw_lengths(count, seed=4)[0].tolist()):
        np.savez(root / f"npz/v{i}.npz", features=rng.standard_normal((T, WIDTH), dtype=np.float32))
        onehot = np.zeros((ANNOTATORS, T), int).tolist()
        records.append(dict(video_id=f"v{i}", duration=float(T), tsum=["A video."], vsum_onehot=onehot))
    (root / "train_videoxum.json").write_text(json.dumps(records))
    return [record["video_id"] for record in records]


def rate(features: NpzFeatures | PackedFeatures, order: list[str], longest: int) -> float:
    """Samples per second, copied into a batch as the loader does, the second time over."""
    batch = np.empty((longest, WIDTH), np.float32)
    for _ in range(2):
        start = time.perf_counter()
        for video_id in order:
            array = features.load(video_id)  # (T, D)
            batch[: len(array)] = array
        samples_per_second = len(order) / (time.perf_counter() - start)
    return samples_per_second


def run(count=300, rounds=3):
    """Read videos in random order from both kinds of packed features and from files."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        names = write_data(root, count)
        order = [names[i] for i in np.random.default_rng(1).permutation(count)]
        sources = {"npz": open_features(root / "npz", names, "features", WIDTH, "features")}
        for dtype in ("float32", "float16"):
            pack(root / "npz", [root / "train_videoxum.json"], root / dtype, field="features", dtype=dtype)
            sources[dtype] = open_features(root / dtype, names, "features", WIDTH, "features")
        for dtype in ("float32", "float16"):
            files = [sources["npz"].load(name) for name in order]
            longest = max(map(len, files))
            pairs = [[rate(sources[kind], order, longest) for kind in (dtype, "npz")] for _ in range(rounds)]
            ours, theirs = np.median(pairs, axis=0)
            same = all(np.array_equal(sources[dtype].load(n), f.astype(dtype)) for n, f in zip(order, files))
            assert same, f"packed features in {dtype} differ from the files"
            row = dict(
                what=f"samples, packed in {dtype}", project=ours, peer=theirs, unit="per s", peer_is=".npz files"
            )
            rows.append(
                row
                | dict(peer_is=".npz files", ratio=float(np.median([a / b for a, b in pairs])), check="the same values")
            )
    return rows
