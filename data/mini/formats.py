"""Write mini VideoXum's annotations in the formats of other datasets: `python -m data.mini.formats ROOT`.

ROOT/anno_own/{split}.jsonl            own data, a record per line
ROOT/anno_instruct_v2xum/{split}.json  Instruct-V2Xum
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from data.registry import annotation_path
from engine.config import SPLITS
from utils.command_line import OneLineParser
from utils.files import atomic_write, read_json
from utils.log import run_main

OWN_FIELDS = ("captions", "vsum_onehot")


def read_mini(root: pathlib.Path, split: str) -> list[dict[str, Any]]:
    """Read the records of a split.

    Raises:
        FileNotFoundError, ValueError: no such file, or it is not JSON.
    """
    return read_json(annotation_path(root / "anno", split), "annotations")


def to_instruct_v2xum(entry: dict[str, Any], video_id: str) -> dict[str, Any]:
    """Convert a record of mini VideoXum to Instruct-V2Xum's format: the answer cites the middle of each event."""
    seconds = {f"<f{i}>": (start + stop) / 2 for i, (start, stop) in enumerate(entry["timestamps"])}
    T = entry["sampled_frames"]
    keyframes = {min(round(second), T - 1) for second in seconds.values()}
    return dict(
        id=video_id,
        meta=dict(duration=entry["duration"], sampled_frames=T, token=seconds),
        conversations=[
            {"from": "human", "value": "<video>\nSummarize this video."},
            {"from": "gpt", "value": "\n".join(f"[{t}]{text}" for t, text in zip(seconds, entry["tsum"]))},
        ],
        vsum_onehot=[int(t in keyframes) for t in range(T)],
    )


def to_own_data(entry: dict[str, Any], *fields: str) -> dict[str, Any]:
    """Convert a record of mini VideoXum to own data, with some of `captions`, `vsum_onehot` and `segments`."""
    values = dict(
        captions=[" ".join(entry["tsum"])],
        vsum_onehot=entry["vsum_onehot"],
        segments=entry["timestamps"][:1],
    )
    return dict(video_id=entry["video_id"], duration=entry["duration"]) | {name: values[name] for name in fields}


def main(argv: Sequence[str] | None = None) -> None:
    parser = OneLineParser(prog="python -m data.mini.formats", description=__doc__.splitlines()[0])
    parser.add_argument("root", type=pathlib.Path, metavar="ROOT", help="folder that data.mini has written")
    args = parser.parse_args(argv)
    for split in SPLITS:
        entries = read_mini(args.root, split)
        lines = [json.dumps(to_own_data(entry, *OWN_FIELDS)) + "\n" for entry in entries]
        instruct_v2xum = [to_instruct_v2xum(entry, entry["video_id"]) for entry in entries]
        texts = {
            f"anno_own/{split}.jsonl": "".join(lines),
            f"anno_instruct_v2xum/{split}.json": json.dumps(instruct_v2xum),
        }
        for name, text in texts.items():
            path = args.root / name
            path.parent.mkdir(exist_ok=True)
            with atomic_write(path) as file:
                file.write(text)
    print(f"{args.root}: anno_own, anno_instruct_v2xum")


if __name__ == "__main__":
    run_main(main)
