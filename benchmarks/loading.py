"""Samples per second from packed features, beside `.npz` files, all of it in the machine's cache."""

import json
import pathlib
import tempfile
import time

import numpy as np

from benchmarks.workload import ANNOTATORS, WIDTH, draw_lengths
from data.features import open_features
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


def rate(features, order):
    """Samples per second, the second time over."""
    for _ in range(2):
        start = time.perf_counter()
        for video_id in order:
            features.load(video_id)
        found = len(order) / (time.perf_counter() - start)
    return found


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
            pairs = [(rate(sources[dtype], order), rate(sources["npz"], order)) for _ in range(rounds)]
            ours, theirs = np.median(pairs, axis=0)
            files = [sources["npz"].load(name) for name in order]
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
