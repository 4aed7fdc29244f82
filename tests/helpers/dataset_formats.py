"""Mini VideoXum's annotations in the formats of other data sets."""

import json


def read_mini(mini_root, split):
    """Read the records of a split."""
    return json.loads((mini_root / f"anno/{split}_videoxum.json").read_text())


def to_instruct_v2xum(entry, video_id):
    """Convert a record: the answer cites the middle of each event."""
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


def to_own_data(entry, *fields):
    """Convert a record, with some of `captions`, `vsum_onehot` and `segments`."""
    values = dict(
        captions=[" ".join(entry["tsum"])],
        vsum_onehot=entry["vsum_onehot"],
        segments=entry["timestamps"][:1],
    )
    return dict(video_id=entry["video_id"], duration=entry["duration"]) | {name: values[name] for name in fields}


def write_json_lines(path, entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
