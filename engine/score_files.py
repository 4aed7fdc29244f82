"""What others bring to TVSum and SumMe: files of frame scores, and of train/test splits.

Axes: n frames of the video file, P picks, T seconds.
"""

import io
import math
import zipfile

import numpy as np

from data.annotations import is_number
from data.tvsum_summe import by_name, plain
from engine.scoring import read_predictions
from utils.files import MOST_BYTES, parse_json, read_json, read_text

STEPS = ("second", "pick", "frame")
SLACK = 2.0  # seconds by which files and annotations may disagree on a duration
SPLITS, TRAIN_SHARE = 5, 0.8


def read_scores(path):
    """Read scores of frames.

    Args:
        path: JSON {video: [scores]}, our predictions_{split}.jsonl (whose saliency, logits, becomes probabilities),
            or an .npz file with one array per video; the content tells which.
    Returns:
        dictionary from video to (T,), (P,) or (n,) float64.
    Raises:
        FileNotFoundError, ValueError: one line that names file and video; a score is not finite or below 0.
    """
    if zipfile.is_zipfile(path):
        found = _read_npz(path)
    else:
        text = read_text(path, "scores")
        found = _of_predictions(path) if _is_jsonl(text) else _of_json(path)
    if not found:
        raise ValueError(f"{path}: scores: found none, expected at least one video")
    for video, values in found.items():
        if not (np.isfinite(values).all() and values.min() >= 0):
            wrong = "found NaN, infinity or less than 0, expected numbers from 0 on, such as probabilities"
            raise ValueError(f"{path}: video {video}: scores: {wrong}")
    return found


def _is_jsonl(text):
    try:
        first = parse_json(text.lstrip().split("\n", 1)[0])
    except ValueError:
        return False
    return isinstance(first, dict) and isinstance(first.get("video_id"), str)


def _of_predictions(path):
    found = {}
    for entry in read_predictions(path):
        place = f"{path}: video {entry['video_id']}"
        if entry["saliency"] is None:
            raise ValueError(f"{place}: saliency: found null, expected one number per second")
        if entry["video_id"] in found:
            raise ValueError(f"{place}: found twice, expected once")
        found[entry["video_id"]] = np.exp(-np.logaddexp(0, -np.array(entry["saliency"], np.float64)))
    return found


def _of_json(path):
    found = read_json(path, "scores")
    if not isinstance(found, dict):
        raise ValueError(f"{path}: scores: found {type(found).__name__}, expected videos and their scores")
    for video, values in found.items():
        if not (isinstance(values, list) and values and all(map(is_number, values))):
            raise ValueError(f"{path}: video {ascii(video)[1:-1][:60]}: scores: expected a list of finite numbers")
    return {video: np.array(values, np.float64) for video, values in found.items()}


def _read_npz(path):
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
                raise ValueError(f"found more than {MOST_BYTES} bytes when unpacked")
            found = {}
            for name in archive.namelist():
                array = np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
                if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "fiu":
                    raise ValueError(f"{name}: found {array.dtype} {array.shape}, expected numbers (T,)")
                found[name.removesuffix(".npy")] = array.astype(np.float64)
            return found
    except Exception as error:  # damaged bytes raise nearly anything in zipfile and NumPy's header parser
        reason = " ".join(ascii(str(error))[1:-1].split())[:200]
        raise ValueError(f"{path}: scores: damaged or not an .npz file of scores ({reason})") from None


def scores_of_videos(found, videos, path, step=None):
    """Stretch scores to the frames of all videos.

    Args:
        found: what `read_scores` gave, by any name of a video.
        videos: list of `BenchmarkVideo`.
        path: their file, for messages.
        step: one of `STEPS`; None takes the one that the number of scores fits.
    Returns:
        list of (n,) float64, in the order of the videos.
    Raises:
        ValueError: a video is unknown, missing or there twice, or the number of its scores fits no step, or two.
    """
    known, of_video = by_name(videos), {}
    for name, values in found.items():
        video, place = known.get(plain(name)), f"{path}: video {ascii(name)[1:-1][:60]}"
        if video is None:
            raise ValueError(f"{place}: not in the annotations, whose first is {videos[0].video_id}")
        if video.video_id in of_video:
            raise ValueError(f"{place}: scores: found twice ({video.video_id}), expected once")
        of_video[video.video_id] = _stretched(values, video, place, step)
    missing = [video.video_id for video in videos if video.video_id not in of_video]
    if missing:
        raise ValueError(f"{path}: video {missing[0]}: scores: missing (with it {len(missing)} of {len(videos)})")
    return [of_video[video.video_id] for video in videos]


def _stretched(values, video, place, step):
    count, expected = len(values), {"frame": f"{video.num_frames} (per frame)"}
    readings = {"frame": values} if count == video.num_frames else {}
    if video.picks is not None:
        expected["pick"] = f"{len(video.picks)} (per pick)"
        if count == len(video.picks):
            readings["pick"] = values[video.pick_of_frame()]
    if video.duration is not None:
        expected["second"] = f"about {math.ceil(video.duration)} (per second)"
        if fits_duration(count, video):
            readings["second"] = values[video.second_of_frame(count)]
    if step is not None:
        readings, expected = ({step: of[step]} if step in of else {} for of in (readings, expected))
    if not readings:
        words = " or ".join(expected.values()) or f"a file that can be read per {step}"
        raise ValueError(f"{place}: scores: found {count}, expected {words}")
    first, *others = readings.values()
    if not all(np.array_equal(first, other) for other in others):
        names = " and per ".join(readings)
        raise ValueError(f"{place}: scores: found {count}, which fits per {names}; say which with --scores_at")
    return first


def fits_duration(T, video):
    """Tell whether T values at 1 fps may be a video's; any T may where the duration is unknown."""
    return video.duration is None or abs(T - video.duration) <= SLACK


def read_splits(path, videos):
    """Read splits in the common format.

    Args:
        path: JSON [{"train_keys": […], "test_keys": […]}, …]; a key is a name or alias of a video, or a path that
            ends in one. Training keys may also name other data sets' videos.
        videos: list of `BenchmarkVideo`.
    Returns:
        list of lists of indices into `videos`, the test sets.
    Raises:
        FileNotFoundError, ValueError: one line that names file, split and key.
    """
    splits, known = read_json(path, "splits"), by_name(videos)
    if not isinstance(splits, list) or not splits:
        raise ValueError(f"{path}: splits: expected a list of objects with train_keys and test_keys")
    index = {video.video_id: i for i, video in enumerate(videos)}
    tests = []
    for number, split in enumerate(splits, 1):
        place = f"{path}: split {number}"
        train, test = (_keys(split, field, place) for field in ("train_keys", "test_keys"))
        both = set(train) & set(test)
        if both or len(set(test)) < len(test) or not test:
            wrong = f"{ascii(min(both))[:60]} in both" if both else "no key or one twice"
            raise ValueError(f"{place}: test_keys: found {wrong}, expected each once, apart from train_keys")
        names = [plain(key.rsplit("/", 1)[-1]) for key in test]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"{place}: test_keys: {ascii(unknown[0])[:60]}: not in the annotations")
        tests.append([index[known[name].video_id] for name in names])
    return tests


def _keys(split, field, place):
    keys = split.get(field) if isinstance(split, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError(f"{place}: {field}: expected a list of keys")
    return keys


def make_splits(count, seed):
    """Draw `SPLITS` test sets of a fifth of the videos each, every one anew, as DR-DSN's `create_split.py` does."""
    rng, tests = np.random.default_rng(seed), max(1, count - math.ceil(TRAIN_SHARE * count))
    return [rng.permutation(count)[:tests].tolist() for _ in range(SPLITS)]
