"""Predictions on disk."""

import json
import pathlib

from data.captions import reference_caption
from utils.files import atomic_write


def write_predictions(output_dir, split, predictions, records):
    """Write `predictions_{split}.jsonl`, and COCO captions and references to `result/{,gt_}{split}.json`."""
    folder = pathlib.Path(output_dir, "result")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(pathlib.Path(output_dir, f"predictions_{split}.jsonl")) as file:
        for entry in predictions:
            file.write(json.dumps(entry, allow_nan=False) + "\n")
    if predictions[0]["caption"] is None:
        for name in (f"{split}.json", f"gt_{split}.json"):
            (folder / name).unlink(missing_ok=True)  # an earlier run's, which these predictions would belie
        return
    with atomic_write(folder / f"{split}.json") as file:
        json.dump([dict(image_id=r.index, caption=p["caption"]) for p, r in zip(predictions, records)], file)
    truth = dict(
        images=[dict(id=r.index) for r in records],
        annotations=[dict(image_id=r.index, id=r.index, caption=reference_caption(r.tsum)) for r in records],
    )
    with atomic_write(folder / f"gt_{split}.json") as file:
        json.dump(truth, file)
