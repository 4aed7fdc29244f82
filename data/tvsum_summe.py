"""TVSum's and SumMe's original annotations -> checked `BenchmarkVideo`s.

Axes: R annotators, n frames of the video file, P picks (the frames that an eccv16 file has features for), D width.
"""

import dataclasses
import math
import pathlib

import numpy as np

from data import arrays

FPS = (1, 1000)  # frames per second that are believed
RATINGS = (1, 5)
TVSUM_FIELDS = ("video", "length", "nframes", "user_anno")
SUMME_FIELDS = ("user_score", "nFrames", "video_duration")


@dataclasses.dataclass(frozen=True)
class BenchmarkVideo:
    """One video of TVSum or SumMe; what a file does not have is None.

    Attributes:
        video_id: its name, or its key in an h5 file without names.
        num_frames: n.
        aliases: other names, such as `video_1`.
        duration: seconds.
        user_scores: (R, n) float32, each annotator's importance.
        user_summary: (R, n) uint8 in {0, 1}, each annotator's summary.
        change_points: shots, (first, last + 1) in frames, one behind the other from frame 0.
        picks: (P,) int, ascending.
        gtscore: (P,) float32, the annotators' mean importance.
        features: (P, D) float32.
    """

    video_id: str
    num_frames: int
    aliases: tuple[str, ...] = ()
    duration: float | None = None
    user_scores: np.ndarray | None = None
    user_summary: np.ndarray | None = None
    change_points: tuple[tuple[int, int], ...] | None = None
    picks: np.ndarray | None = None
    gtscore: np.ndarray | None = None
    features: np.ndarray | None = None

    def second_of_frame(self, T):
        """The second, of T at 1 fps, that each frame belongs to: (n,) int; evenly where the duration is unknown."""
        per_second = self.num_frames / (self.duration or T)
        return np.minimum((np.arange(self.num_frames) / per_second).astype(int), T - 1)

    def pick_of_frame(self):
        """The last pick up to each frame: (n,) int, as the h5 files' scores are stretched (Zhang et al., 2016)."""
        return np.maximum(np.searchsorted(self.picks, np.arange(self.num_frames), side="right") - 1, 0)

    def places(self):
        """Frames at which scores are correlated: the middle one of each second, or the picks; (P,) int.

        Not the first one of a second: TVSum's ratings change there, a frame sooner or later than the clock says.
        """
        if self.duration is None:
            return self.picks
        middles = np.arange(max(1, math.ceil(self.duration - 0.5))) + 0.5
        return np.minimum((middles * self.num_frames / self.duration).astype(int), self.num_frames - 1)


def is_tvsum_mat(path):
    """Tell TVSum's own file from an eccv16 one; raises as the readers do."""
    with arrays.open_hdf5(path, "an HDF5 file") as reader:
        return "tvsum50" in reader.file


def read_tvsum_mat(path):
    """Read TVSum's `ydata-tvsum50.mat` (MATLAB 7.3).

    Args:
        path: the file; used are `video`, `length` (seconds), `nframes` and `user_anno` (importance 1 to 5).
    Returns:
        list of `BenchmarkVideo` in the file's order, the i-th (from 1) with the alias `video_i` that eccv16 files use.
    Raises:
        FileNotFoundError, ValueError: one line that names file, video, field, found and expected.
    Source: Song et al., TVSum: Summarizing Web Videos Using Titles, CVPR 2015.
    """
    import h5py

    with arrays.open_hdf5(path, "TVSum's .mat file") as reader:
        group = reader.file.get("tvsum50")
        arrays.require(isinstance(group, h5py.Group), f"{path}: tvsum50", "no group", "TVSum's annotations")
        fields = {}
        for field in TVSUM_FIELDS:
            fields[field] = reader.array(group.get(field), f"{path}: {field}").reshape(-1)
            same = len(fields[field]) == len(fields["video"]) > 0 and fields[field].dtype == object
            arrays.require(same, f"{path}: {field}", f"{len(fields[field])} entries", "a reference for each video")
        videos = []
        for i in range(len(fields["video"])):
            of_video = {field: reader.file[fields[field][i]] for field in TVSUM_FIELDS}
            videos.append(_tvsum_video(reader, of_video, i + 1, path))
        return unlike(videos, path)


def _tvsum_video(reader, fields, number, path):
    place = f"{path}: video {number}"
    found = {field: reader.array(node, f"{place}: {field}") for field, node in fields.items()}
    signs = arrays.numbers(found["video"].reshape(-1), f"{place}: video", (None,))
    name = arrays.name("".join(chr(int(sign)) for sign in signs), f"{place}: video")
    place = f"{path}: video {name}"
    n = arrays.count(found["nframes"], f"{place}: nframes")
    ratings = arrays.floats(found["user_anno"], f"{place}: user_anno", (None, n))
    least, most = ratings.min(), ratings.max()
    right = RATINGS[0] <= least and most <= RATINGS[1] and len(ratings) > 1
    values = f"{least:g} to {most:g} of {len(ratings)}"
    arrays.require(right, f"{place}: user_anno", values, "importance 1 to 5 of at least 2 annotators")
    duration = _duration(found["length"], f"{place}: length", n)
    return BenchmarkVideo(name, n, (f"video_{number}",), duration, user_scores=ratings)


def read_summe(folder):
    """Read SumMe's `GT` folder, one MATLAB 5 file per video.

    Args:
        folder: with `{video}.mat`; used are `user_score` (n, R), above 0 where an annotator selected the frame,
            `nFrames` and `video_duration` (seconds).
    Returns:
        list of `BenchmarkVideo`, by name, with `user_summary`: SumMe's annotators selected frames and rated none.
    Raises:
        FileNotFoundError, ValueError: as `read_tvsum_mat`.
    Source: Gygli et al., Creating Summaries from User Videos, ECCV 2014, and its `summe_evaluateSummary`.
    """
    paths = sorted(pathlib.Path(folder).glob("*.mat"))
    if not paths:
        raise FileNotFoundError(f"{folder}: annotations: found no .mat file, expected SumMe's GT folder")
    return [_read_summe_video(path) for path in paths]


def _read_summe_video(path):
    place = f"{path}: video {ascii(path.stem)[1:-1]}"
    with arrays.one_line(path, "a MATLAB 5 file"):
        found = arrays.load_matlab5(path, SUMME_FIELDS)
        for field in SUMME_FIELDS:
            arrays.require(field in found, f"{place}: {field}", "nothing", "an array of numbers")
        n = arrays.count(found["nFrames"], f"{place}: nFrames")
        selected = arrays.numbers(found["user_score"], f"{place}: user_score", (n, None)).T > 0  # (R, n)
        duration = _duration(found["video_duration"], f"{place}: video_duration", n)
        selected = selections(selected, f"{place}: user_score", n)
        return BenchmarkVideo(arrays.name(path.stem, place), n, duration=duration, user_summary=selected)


def _duration(array, place, n):
    return float(arrays.scalar(array, place, n / FPS[1], n / FPS[0]))


def selections(array, place, n):
    """Check the annotators' selections and return them as (R, n) uint8."""
    arrays.numbers(array, place, (None, n))
    arrays.require(len(array) > 1, place, "1 annotator", "at least 2")
    arrays.require(np.isin(array, (0, 1)).all(), place, "other values", "0 and 1")
    return array.astype(np.uint8)


def plain(name):
    """A name as it is compared: files of the same data set differ in spaces, underscores and capitals."""
    return name.replace(" ", "_").casefold()


def by_name(videos):
    """Every name and alias of the videos, as `plain` gives it -> the video; a name counts more than an alias."""
    aliases = {plain(alias): video for video in videos for alias in video.aliases}
    return aliases | {plain(video.video_id): video for video in videos}


def unlike(videos, path):
    """Return the videos if no two share a name."""
    ids = [plain(video.video_id) for video in videos]
    twice = next((name for name in ids if ids.count(name) > 1), None)
    arrays.require(twice is None, f"{path}: video {twice}", "it twice", "it once")
    return videos


def with_shots(videos, others, path):
    """Give videos of the original annotations the shots, picks and, on TVSum, user summaries of an eccv16 file.

    TVSum's ratings have ties, between which a knapsack may choose another way: published F1 uses the file's summaries.

    Args:
        videos: list of `BenchmarkVideo` of the original files.
        others: list of those of `path`, in any order; on TVSum `video_1` is the first one of the .mat.
    Raises:
        ValueError: a video is missing there, has no shots, or another number of frames.
    """
    known, matched = by_name(others), []
    for video in videos:
        names = [name for name in map(plain, (video.video_id, *video.aliases)) if name in known]
        place = f"{path}: video {video.video_id}"
        if not names:
            raise ValueError(f"{place}: not in the file, found {others[0].video_id} and {len(others) - 1} more")
        other = known[names[0]]
        if other.change_points is None:
            raise ValueError(f"{place}: change_points: missing")
        if other.num_frames != video.num_frames:
            expected = f"{video.num_frames} as in the annotations"
            raise ValueError(f"{place}: n_frames: found {other.num_frames}, expected {expected}")
        summary = other.user_summary if video.user_summary is None else video.user_summary
        aliases = tuple(dict.fromkeys((*video.aliases, other.video_id, *other.aliases)))
        changes = dict(aliases=aliases, user_summary=summary, picks=other.picks, change_points=other.change_points)
        matched.append(dataclasses.replace(video, **changes))
    return matched
