"""TVSum's and SumMe's original annotations -> checked `BenchmarkVideo`s.

Axes: R annotators, n frames of the video file, P picks (the frames that an eccv16 file has features for), D width.
"""

import dataclasses
import math
import os
import pathlib

import numpy as np

from data import arrays

FPS_RANGE = (1, 1000)  # plausible range of frames per second
RATING_RANGE = (1, 5)
TVSUM_FIELDS = ("video", "length", "nframes", "user_anno")
SUMME_FIELDS = ("user_score", "nFrames", "video_duration")


@dataclasses.dataclass(frozen=True)
class BenchmarkVideo:
    """One video of TVSum or SumMe; fields that a file does not have are None.

    Attributes:
        video_id: its name, or its key in an h5 file without names.
        num_frames: n.
        aliases: other names, such as `video_1`.
        duration: seconds.
        user_scores: (R, n) float32, each annotator's importance.
        user_summary: (R, n) uint8 in {0, 1}, each annotator's summary.
        change_points: shots, (first, last + 1) in frames, contiguous from frame 0.
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

    def second_of_frame(self, T: int) -> np.ndarray:
        """Return the second (of T at 1 fps) of each frame: (n,) int; evenly distributed if the duration is unknown."""
        per_second = self.num_frames / (self.duration or T)
        return np.minimum((np.arange(self.num_frames) / per_second).astype(int), T - 1)

    def pick_of_frame(self) -> np.ndarray:
        """Return the last pick up to each frame, as an index (n,) int: scores per pick become scores per frame."""
        assert self.picks is not None
        return np.maximum(np.searchsorted(self.picks, np.arange(self.num_frames), side="right") - 1, 0)

    def scored_frames(self) -> np.ndarray:
        """Return the frames at which scores are correlated: the middle one of each second, or the picks; (P,) int.

        Not the first one of a second: TVSum's ratings change near it, up to a frame early or late.
        """
        if self.duration is None:
            assert self.picks is not None
            return self.picks
        middles = np.arange(max(1, math.ceil(self.duration - 0.5))) + 0.5
        return np.minimum((middles * self.num_frames / self.duration).astype(int), self.num_frames - 1)


def is_tvsum_mat(path: str | os.PathLike) -> bool:
    """Whether a file is TVSum's original one and not an eccv16 file; raises as the readers do."""
    import h5py

    with arrays.one_line_read_errors(path, "an HDF5 file"), h5py.File(path, "r") as file:
        return "tvsum50" in file


def read_tvsum_mat(path: str | os.PathLike) -> list[BenchmarkVideo]:
    """Read TVSum's `ydata-tvsum50.mat` (MATLAB 7.3).

    Args:
        path: the file, of which `video`, `length` (seconds), `nframes` and `user_anno` (importance 1 to 5) are read.
    Returns:
        Videos in the file's order, the i-th (from 1) with the alias `video_i` of eccv16 files.
    Raises:
        FileNotFoundError, ValueError: one line that names file, video, field, found and expected.
    Source: Song et al., TVSum: Summarizing Web Videos Using Titles, CVPR 2015.
    """
    import h5py

    with arrays.one_line_read_errors(path, "TVSum's .mat file"), h5py.File(path, "r") as file:
        group = file.get("tvsum50")
        arrays.require(isinstance(group, h5py.Group), f"{path}: tvsum50", "no group", "TVSum's annotations")
        references = {field: arrays.read_dataset(group, field, str(path)).reshape(-1) for field in TVSUM_FIELDS}
        count = len(references["video"])
        for field, column in references.items():
            fits = len(column) == count > 0 and column.dtype == object
            arrays.require(fits, f"{path}: {field}", f"{len(column)} entries", "a reference for each video")
        rows = [{field: file[references[field][i]][()] for field in TVSUM_FIELDS} for i in range(count)]
        return require_unique_names([_tvsum_video(row, i + 1, path) for i, row in enumerate(rows)], path)


def _tvsum_video(row: dict[str, np.ndarray], number: int, path: str | os.PathLike) -> BenchmarkVideo:
    codes = arrays.check_numbers(row["video"].reshape(-1), f"{path}: video {number}: video", (None,))
    name = arrays.require_name("".join(map(chr, codes.astype(int))), f"{path}: video {number}: video")
    context = f"{path}: video {name}"
    n = arrays.check_count(row["nframes"], f"{context}: nframes")
    ratings = arrays.check_floats(row["user_anno"], f"{context}: user_anno", (None, n))  # (R, n)
    low, high = ratings.min(), ratings.max()
    arrays.require(
        RATING_RANGE[0] <= low and high <= RATING_RANGE[1] and len(ratings) > 1,
        f"{context}: user_anno",
        f"{low:g} to {high:g} of {len(ratings)}",
        "importance 1 to 5 of at least 2 annotators",
    )
    duration = _duration(row["length"], f"{context}: length", n)
    return BenchmarkVideo(name, n, (f"video_{number}",), duration, user_scores=ratings)


def read_summe(folder: str | os.PathLike) -> list[BenchmarkVideo]:
    """Read SumMe's `GT` folder, one MATLAB 5 file per video.

    Args:
        folder: folder of `{video}.mat`, of which `user_score` (n, R), above 0 where an annotator selected the frame,
            `nFrames` and `video_duration` (seconds) are read.
    Returns:
        Videos by name, with `user_summary`: SumMe's annotators selected frames and did not rate them.
    Raises:
        FileNotFoundError, ValueError: as `read_tvsum_mat`.
    Source: Gygli et al., Creating Summaries from User Videos, ECCV 2014, and its `summe_evaluateSummary`.
    """
    paths = sorted(pathlib.Path(folder).glob("*.mat"))
    if not paths:
        raise FileNotFoundError(f"{folder}: annotations: found no .mat file, expected SumMe's GT folder")
    return [_read_summe_video(path) for path in paths]


def _read_summe_video(path: pathlib.Path) -> BenchmarkVideo:
    import scipy.io

    context = f"{path}: video {ascii(path.stem)[1:-1]}"
    with arrays.one_line_read_errors(path, "a MATLAB 5 file"):
        fields = scipy.io.loadmat(path, appendmat=False, variable_names=SUMME_FIELDS)
        for field in SUMME_FIELDS:
            arrays.require(field in fields, f"{context}: {field}", "nothing", "an array of numbers")
        n = arrays.check_count(fields["nFrames"], f"{context}: nFrames")
        selected = arrays.check_numbers(fields["user_score"], f"{context}: user_score", (n, None)).T > 0  # (R, n)
        arrays.require(len(selected) > 1, f"{context}: user_score", "1 annotator", "at least 2")
        return BenchmarkVideo(
            arrays.require_name(path.stem, context),
            n,
            duration=_duration(fields["video_duration"], f"{context}: video_duration", n),
            user_summary=check_selections(selected, f"{context}: user_score", n),
        )


def _duration(array: np.ndarray, context: str, n: int) -> float:
    return float(arrays.check_scalar(array, context, n / FPS_RANGE[1], n / FPS_RANGE[0]))


def check_selections(array: np.ndarray, context: str, n: int) -> np.ndarray:
    """Check the annotators' selections and return them as (R, n) uint8."""
    arrays.check_numbers(array, context, (None, n))
    arrays.require(np.isin(array, (0, 1)).all(), context, "other values", "0 and 1")
    return array.astype(np.uint8)


def normalize_name(name: str) -> str:
    """Normalize a name for comparison: files of one dataset differ in spaces, underscores and case."""
    return name.replace(" ", "_").casefold()


def index_by_name(videos: list[BenchmarkVideo]) -> dict[str, BenchmarkVideo]:
    """Map every normalized name and alias to its video; a name takes precedence over an alias."""
    aliases = {normalize_name(alias): video for video in videos for alias in video.aliases}
    return aliases | {normalize_name(video.video_id): video for video in videos}


def require_unique_names(videos: list[BenchmarkVideo], path: str | os.PathLike) -> list[BenchmarkVideo]:
    """Return the videos if no two share a name."""
    names = [normalize_name(video.video_id) for video in videos]
    repeated = next((name for name in names if names.count(name) > 1), None)
    arrays.require(repeated is None, f"{path}: video {repeated}", "the name twice", "unique names")
    return videos


def add_shots(
    videos: list[BenchmarkVideo], others: list[BenchmarkVideo], path: str | os.PathLike
) -> list[BenchmarkVideo]:
    """Add the shots, picks and, on TVSum, user summaries of an eccv16 file to videos of the original annotations.

    TVSum's ratings have ties, which a knapsack may break differently: published F1 uses the file's summaries.

    Args:
        videos: those of the original files.
        others: those of `path`, in any order; on TVSum, `video_1` is the first one of the .mat.
        path: the eccv16 file, for messages.
    Raises:
        ValueError: a video is missing in the file, has no shots, or another number of frames.
    """
    known = index_by_name(others)
    matched: list[BenchmarkVideo] = []
    for video in videos:
        names = [name for name in map(normalize_name, (video.video_id, *video.aliases)) if name in known]
        context = f"{path}: video {video.video_id}"
        if not names:
            raise ValueError(f"{context}: not in the file, found {others[0].video_id} and {len(others) - 1} more")
        other = known[names[0]]
        if other.change_points is None:
            raise ValueError(f"{context}: change_points: missing")
        if other.num_frames != video.num_frames:
            expected = f"{video.num_frames} as in the annotations"
            raise ValueError(f"{context}: n_frames: found {other.num_frames}, expected {expected}")
        matched.append(
            dataclasses.replace(
                video,
                aliases=tuple(dict.fromkeys((*video.aliases, other.video_id, *other.aliases))),
                user_summary=other.user_summary if video.user_summary is None else video.user_summary,
                picks=other.picks,
                change_points=other.change_points,
            )
        )
    return matched
