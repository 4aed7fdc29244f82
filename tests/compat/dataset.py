"""A tiny dataset computed without random numbers, so that it does not depend on library versions.

15 videos of 6 to 20 seconds; features are multiples of 1/48, exact in half precision.
"""

import json
import pathlib

import numpy as np

COUNTS = dict(train=12, val=3)
WIDTH, NUM_ANNOTATORS = 768, 10


def write_dataset(root: pathlib.Path) -> None:
    """Write `anno/{train,val}_videoxum.json` and `feat/blip/{video_id}.npz`."""
    for folder in ("anno", "feat/blip"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    number = 0
    for split, count in COUNTS.items():
        records = []
        for i in range(count):
            number += 1
            record, features = _video(f"{split}_{i:02d}", number)
            records.append(record)
            np.savez(root / "feat/blip" / f"{record['video_id']}.npz", features=features)
        (root / "anno" / f"{split}_videoxum.json").write_text(json.dumps(records))


def _video(video_id: str, number: int) -> tuple[dict, np.ndarray]:
    T = 6 + 7 * number % 15
    time, column = np.arange(T)[:, None], np.arange(WIDTH)[None]
    features = (((31 * time + 17 * column + 7 * number + time * column) % 97 - 48) / 48).astype(np.float32)  # (T, D)
    first = (3 * number) % (T - 2)
    onehot = [[int(first + r % 2 <= t < first + 2 + r % 2) for t in range(T)] for r in range(NUM_ANNOTATORS)]
    record = dict(video_id=video_id, duration=T - 0.25, tsum=[f"Video {number}."], vsum_onehot=onehot)
    return record, features
