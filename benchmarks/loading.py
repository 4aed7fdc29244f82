"""Samples per second from packed features, compared with `.npz` files, all in the operating system's file cache.

Axes: T frames, D width.
"""

import json
import pathlib
import tempfile
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.records import Row
from benchmarks.workload import BASE_WIDTH, draw_lengths
from data.features import NpzFeatures, PackedFeatures, open_features
from data.pack import pack_features
from data.videoxum import NUM_ANNOTATORS


def write_random_features(root: pathlib.Path, count: int) -> list[str]:
    """Write features and annotations of `count` videos into a folder.

    Returns:
        ids of the videos.
    """
    rng = np.random.default_rng(0)
    (root / "npz").mkdir()
    records = []
    for i, T in enumerate(draw_lengths(count, seed=4)[0].tolist()):
        np.savez(root / f"npz/v{i}.npz", features=rng.standard_normal((T, BASE_WIDTH), dtype=np.float32))
        onehot = np.zeros((NUM_ANNOTATORS, T), int).tolist()
        records.append(dict(video_id=f"v{i}", duration=float(T), tsum=["A video."], vsum_onehot=onehot))
    (root / "train_videoxum.json").write_text(json.dumps(records))
    return [f"v{i}" for i in range(count)]


def measure_sample_rate(features: NpzFeatures | PackedFeatures, video_ids: Sequence[str], longest: int) -> float:
    """Measure the samples per second of the second pass over videos; each is copied into a batch, as by the loader.

    Args:
        features: features of the videos.
        video_ids: in the order of reading.
        longest: frames of the longest video.
    """
    batch = np.empty((longest, BASE_WIDTH), np.float32)
    for _ in range(2):
        start = time.perf_counter()
        for video_id in video_ids:
            array = features.load(video_id)  # (T, D)
            batch[: len(array)] = array
        samples_per_second = len(video_ids) / (time.perf_counter() - start)
    return samples_per_second


def benchmark_loading(count: int = 300, rounds: int = 3) -> list[Row]:
    """Read videos in random order from both kinds of packed features and from files.

    Args:
        count: number of videos.
        rounds: number of alternating measurements.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        video_ids = write_random_features(root, count)
        order = [video_ids[i] for i in np.random.default_rng(1).permutation(count)]
        npz = open_features(root / "npz", video_ids, "features", BASE_WIDTH, "features")
        arrays = [npz.load(video_id) for video_id in order]
        longest = max(map(len, arrays))
        for dtype in ("float32", "float16"):
            pack_features(root / "npz", [root / "train_videoxum.json"], root / dtype, field="features", dtype=dtype)
        for dtype in ("float32", "float16"):
            packed = open_features(root / dtype, video_ids, "features", BASE_WIDTH, "features")
            pairs = [[measure_sample_rate(source, order, longest) for source in (packed, npz)] for _ in range(rounds)]
            project_rate, peer_rate = np.median(pairs, axis=0).tolist()
            is_equal = all(
                np.array_equal(packed.load(video_id), array.astype(dtype)) for video_id, array in zip(order, arrays)
            )
            assert is_equal, f"packed features in {dtype} differ from the files"
            rows.append(
                Row(
                    measurement=f"samples, packed in {dtype}",
                    project_value=project_rate,
                    peer_value=peer_rate,
                    unit="per s",
                    peer_name=".npz files",
                    ratio=float(np.median([packed_rate / npz_rate for packed_rate, npz_rate in pairs])),
                    check="the same values",
                )
            )
    return rows
