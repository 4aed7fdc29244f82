"""Small files in the layouts of the released TVSum and SumMe files."""

import h5py
import numpy as np
import scipy.io

FPS, SECONDS = 30, 12
FRAMES = FPS * SECONDS  # n
PICKS = np.arange(0, FRAMES, 15)
CHANGE_POINTS = np.array([[0, 29], [30, 59], [60, 149], [150, 179], [180, 239], [240, FRAMES - 1]])


def make_ratings(i, annotators=4):
    """Make importance scores from 1 to 5 of each annotator, constant for two seconds: (R, n)."""
    return np.repeat(np.random.default_rng(i).integers(1, 6, (annotators, SECONDS // 2)), 2 * FPS, axis=1).astype(float)


def make_selections(i, annotators=4):
    """Make a summary of two seconds for each annotator: (R, n) in {0, 1}."""
    summaries = np.zeros((annotators, FRAMES))
    for summary, first in zip(summaries, np.random.default_rng(i).integers(0, SECONDS - 1, annotators)):
        summary[first * FPS : (first + 2) * FPS] = 1
    return summaries


def write_tvsum_mat(path, count=5, **changes):
    """Write a MATLAB 7.3 file like `ydata-tvsum50.mat`; `changes` replaces fields of the first video."""
    with h5py.File(path, "w", userblock_size=512) as file:
        group, refs = file.create_group("tvsum50"), file.create_group("#refs#")
        for i in range(count):
            name = np.array([[ord(character)] for character in f"name-{i}"], np.uint16)
            values = dict(video=name, length=np.array([[SECONDS]], float), nframes=np.array([[FRAMES]], float))
            values |= dict(user_anno=make_ratings(i)) | (changes if i == 0 else {})
            for field, value in values.items():
                if field not in group:
                    group.create_dataset(field, (count, 1), dtype=h5py.ref_dtype)
                compression = "gzip" if field == "user_anno" else None
                group[field][i, 0] = refs.create_dataset(f"{field}{i}", data=value, compression=compression).ref
    return path


def write_summe(folder, count=5, **changes):
    """Write a `GT` folder; `changes` replaces fields of the first video, None removes one."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        scores = make_selections(i).T * np.arange(1, FRAMES + 1)[:, None]  # any number above 0 means selected
        values = dict(user_score=scores, nFrames=FRAMES, FPS=float(FPS), video_duration=float(SECONDS))
        values |= dict(gt_score=scores.mean(1), segments=np.array([[1, 2]])) | (changes if i == 0 else {})
        values = {field: value for field, value in values.items() if value is not None}
        scipy.io.savemat(folder / f"Name {i}.mat", values, do_compression=True)
    return folder


def write_eccv16(path, count=5, names=True, **changes):
    """Write an eccv16 file of the same videos, with underscores in names; `changes` as in `write_summe`."""
    with h5py.File(path, "w") as file:
        for i in range(count):
            values = dict(n_frames=FRAMES, n_steps=len(PICKS), picks=PICKS, change_points=CHANGE_POINTS)
            values |= dict(n_frame_per_seg=CHANGE_POINTS[:, 1] - CHANGE_POINTS[:, 0] + 1)
            values |= dict(user_summary=make_selections(i), gtscore=make_selections(i).mean(0)[PICKS])
            values |= dict(features=np.random.default_rng(i).random((len(PICKS), 8)), gtsummary=np.ones(len(PICKS)))
            values |= (dict(video_name=f"Name_{i}") if names else {}) | (changes if i == 0 else {})
            group = file.create_group(f"video_{i + 1}")
            for field, value in values.items():
                if value is not None:
                    group[field] = value
    return path
