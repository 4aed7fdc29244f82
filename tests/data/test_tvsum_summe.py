"""TVSum's and SumMe's files in their released layouts, valid and invalid."""

import contextlib

import numpy as np
import pytest
import scipy.io

from data.eccv16 import read_eccv16
from data.tvsum_summe import BenchmarkVideo, add_shots, index_by_name, is_tvsum_mat, read_summe, read_tvsum_mat
from tests.helpers import tvsum_summe_files as files
from tests.helpers.tvsum_summe_files import (
    CHANGE_POINTS,
    FRAMES,
    PICKS,
    SECONDS,
    write_eccv16,
    write_summe,
    write_tvsum_mat,
)

SHOTS = tuple((int(first), int(last) + 1) for first, last in CHANGE_POINTS)


@contextlib.contextmanager
def raises_one_line(path, message):
    """Expect a ValueError of one line that begins with the path."""
    with pytest.raises(ValueError, match=message) as error:
        yield
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_read_tvsum(tmp_path):
    path = write_tvsum_mat(tmp_path / "y.mat", 3)
    videos = read_tvsum_mat(path)
    assert is_tvsum_mat(path) and [video.video_id for video in videos] == ["name-0", "name-1", "name-2"]
    for i, video in enumerate(videos):
        assert (video.num_frames, video.duration, video.aliases) == (FRAMES, SECONDS, (f"video_{i + 1}",))
        assert np.array_equal(video.user_scores, files.make_ratings(i)) and video.user_summary is None


def test_read_summe(tmp_path):
    videos = read_summe(write_summe(tmp_path / "GT", 3))
    assert [video.video_id for video in videos] == ["Name 0", "Name 1", "Name 2"]
    for i, video in enumerate(videos):
        assert (video.num_frames, video.duration) == (FRAMES, SECONDS)
        assert np.array_equal(video.user_summary, files.make_selections(i)) and video.user_scores is None


def test_read_eccv16(tmp_path):
    path = write_eccv16(tmp_path / "e.h5", 11)
    videos = read_eccv16(path)
    assert not is_tvsum_mat(path) and [video.aliases for video in videos] == [(f"video_{i}",) for i in range(1, 12)]
    for i, video in enumerate(videos):
        assert (video.video_id, video.num_frames, video.duration) == (f"Name_{i}", FRAMES, None)
        assert np.array_equal(video.user_summary, files.make_selections(i)) and np.array_equal(video.picks, PICKS)
        assert video.change_points == SHOTS and video.features.shape == (len(PICKS), 8)
        assert video.gtscore == pytest.approx(files.make_selections(i).mean(0)[PICKS])


def test_eccv16_with_required_fields_only(tmp_path):
    missing = dict.fromkeys(("change_points", "n_frame_per_seg", "n_steps", "gtscore", "features"))
    (video,) = read_eccv16(write_eccv16(tmp_path / "e.h5", 1, names=False, **missing))
    assert (video.video_id, video.aliases, video.change_points, video.features) == ("video_1", (), None, None)


def test_shots_are_clipped_to_the_video(tmp_path):
    points = CHANGE_POINTS.copy()
    points[-1, 1] += 5
    (video,) = read_eccv16(write_eccv16(tmp_path / "e.h5", 1, change_points=points, n_frame_per_seg=None))
    assert video.change_points == SHOTS


def test_frames_map_to_seconds_and_picks():
    video = BenchmarkVideo("v", 10, duration=2.5, picks=np.array([1, 5]))
    assert video.second_of_frame(3).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert video.second_of_frame(2).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]  # the last second is extended
    assert video.pick_of_frame().tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert video.scored_frames().tolist() == [2, 6]  # the middle of the third second is the video's end
    assert BenchmarkVideo("v", 10, picks=np.array([1, 5])).scored_frames().tolist() == [1, 5]
    assert BenchmarkVideo("v", 10).second_of_frame(5).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_original_annotations_get_shots_from_eccv16(tmp_path):
    unnamed = read_eccv16(write_eccv16(tmp_path / "e.h5", names=False))
    videos = add_shots(read_tvsum_mat(write_tvsum_mat(tmp_path / "y.mat")), unnamed[::-1], "e.h5")
    assert all(video.change_points == SHOTS and video.duration == SECONDS for video in videos)
    assert all(np.array_equal(video.user_summary, files.make_selections(i)) for i, video in enumerate(videos))
    named = read_eccv16(write_eccv16(tmp_path / "e.h5"))
    videos = add_shots(read_summe(write_summe(tmp_path / "GT")), named[::-1], "e.h5")  # "Name 0" is "Name_0"
    assert [video.video_id for video in videos] == [f"Name {i}" for i in range(5)]
    assert index_by_name(videos)["video_2"] is videos[1]
    with pytest.raises(ValueError, match="e.h5: video Name 3: not in the file"):
        add_shots(videos, named[:3], "e.h5")
    without_shots = read_eccv16(write_eccv16(tmp_path / "f.h5", change_points=None))
    with pytest.raises(ValueError, match="f.h5: video Name 0: change_points: missing"):
        add_shots(videos, without_shots, "f.h5")
    with pytest.raises(ValueError, match="e.h5: video a: n_frames: found 360, expected 7 as in the annotations"):
        add_shots([BenchmarkVideo("a", 7, ("video_1",))], named, "e.h5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(user_anno=files.make_ratings(0)[:, 1:]),
            r"name-0: user_anno: found float64 \(4, 359\), expected numbers",
        ),
        (dict(user_anno=files.make_ratings(0) - 1), "name-0: user_anno: found 0 to 4 of 4, expected importance 1 to 5"),
        (dict(user_anno=files.make_ratings(0) * np.nan), "name-0: user_anno: found NaN"),
        (
            dict(user_anno=files.make_ratings(0)[:1]),
            "user_anno: found 1 to 5 of 1, expected importance 1 to 5 of at least",
        ),
        (dict(nframes=np.array([[0.5]])), "name-0: nframes: found 0.5"),
        (dict(nframes=np.array([[360.5]])), "name-0: nframes: found 360.5, expected an integer"),
        (dict(length=np.array([[1e300]])), "name-0: length: found 1e.300, expected 0.36 to 360"),
        (dict(video=np.array([[46], [46], [47]], np.uint16)), "video 1: video: name: found '../', expected a name"),
        (dict(video=np.array([[ord(c)] for c in "NAME-1"], np.uint16)), "video name-1: found the name twice, expected"),
    ],
)
def test_invalid_tvsum_raises(tmp_path, changes, message):
    path = write_tvsum_mat(tmp_path / "y.mat", 2, **changes)
    with raises_one_line(path, message):
        read_tvsum_mat(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(user_score=None), "Name 0: user_score: found nothing"),
        (dict(user_score="text"), "user_score: found <U4"),
        (dict(nFrames=FRAMES - 1), r"Name 0: user_score: found float64 \(360, 4\), expected numbers \(359, 'any'\)"),
        (dict(video_duration=0.0), "Name 0: video_duration: found 0.0, expected 0.36 to 360"),
        (dict(user_score=np.ones((FRAMES, 1))), "Name 0: user_score: found 1 annotator, expected at least 2"),
    ],
)
def test_invalid_summe_raises(tmp_path, changes, message):
    folder = write_summe(tmp_path / "GT", 1, **changes)
    with raises_one_line(folder / "Name 0.mat", message):
        read_summe(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(user_summary=None), "user_summary: found nothing, expected an array"),
        (dict(user_summary=files.make_selections(0) / 2), "user_summary: found other values, expected 0 and 1"),
        (dict(user_summary=files.make_selections(0)[:, 1:]), r"user_summary: found float64 \(4, 359\)"),
        (dict(picks=PICKS[::-1].astype(np.uint16)), "picks: found 345 to 0, expected ascending frames of 360"),
        (dict(picks=PICKS + 15), "picks: found 15 to 360"),
        (dict(n_steps=3), "n_steps: found 3, expected 24 as in picks"),
        (dict(change_points=CHANGE_POINTS[:-1], n_frame_per_seg=None), "change_points: found shots from 0 to 240"),
        (dict(change_points=CHANGE_POINTS + [[0, 2]]), "n_frame_per_seg: found other lengths"),
        (dict(change_points=CHANGE_POINTS + [[0, 1]], n_frame_per_seg=None), "change_points: found shots from 0"),
        (dict(gtscore=np.full(len(PICKS), np.inf)), "gtscore: found NaN or infinity"),
        (dict(features=b"text"), "features: found .S4 .., expected numbers"),
        (dict(video_name=3.0), "video_name: found float64"),
        (dict(video_name=["a", "b"]), "video_name: found object"),
        (dict(video_name="a/b"), "video_name: name: found 'a/b'"),
    ],
)
def test_invalid_eccv16_raises(tmp_path, changes, message):
    path = write_eccv16(tmp_path / "e.h5", 2, **changes)
    with raises_one_line(path, f"video video_1: {message}"):
        read_eccv16(path)


def test_missing_truncated_and_unrelated_files_raise(tmp_path):
    for read in (read_tvsum_mat, read_eccv16, is_tvsum_mat):
        with pytest.raises(FileNotFoundError, match="none.mat: no such file"):
            read(tmp_path / "none.mat")
        for data in (b"", b"no HDF5"):
            (tmp_path / "x.mat").write_bytes(data)
            with raises_one_line(tmp_path / "x.mat", "annotations: damaged or not"):
                read(tmp_path / "x.mat")
    with raises_one_line(tmp_path / "x.mat", "annotations: damaged or not a MATLAB 5 file"):
        read_summe(tmp_path)
    for path, read in {
        write_eccv16(tmp_path / "e.h5"): read_eccv16,
        write_tvsum_mat(tmp_path / "y.mat"): read_tvsum_mat,
        write_summe(tmp_path / "GT", 1) / "Name 0.mat": lambda path: read_summe(path.parent),
    }.items():
        path.write_bytes(path.read_bytes()[:-2000])
        with raises_one_line(path, "annotations: damaged or not"):
            read(path)
    with pytest.raises(FileNotFoundError, match="expected SumMe's GT folder"):
        read_summe(tmp_path / "none")
    with pytest.raises(ValueError, match="tvsum50: found no group"):
        read_tvsum_mat(write_eccv16(tmp_path / "e.h5"))


def test_uncompressed_matlab_file(tmp_path):
    compressed = read_summe(write_summe(tmp_path / "GT", 1))[0]
    values = scipy.io.loadmat(tmp_path / "GT/Name 0.mat")
    scipy.io.savemat(
        tmp_path / "GT/Name 0.mat", {name: values[name] for name in values if name[0] != "_"}, do_compression=False
    )
    assert np.array_equal(read_summe(tmp_path / "GT")[0].user_summary, compressed.user_summary)
