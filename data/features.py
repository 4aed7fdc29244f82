"""Feature `.npz` -> arrays, checked."""

import pathlib
import zipfile

import numpy as np


def feature_path(root, video_id):
    """Where the features of a video lie."""
    return pathlib.Path(root, f"{video_id}.npz")


def load_features(root, video_id, field, width=None):
    """Read one array of frame features.

    Args:
        root: folder of `{video_id}.npz`.
        video_id: the video.
        field: name of the array in the file: `features` of BLIP, `vision` or `text` of VT-CLIP.
        width: columns expected; None takes any.
    Returns:
        (T, width) float32, finite.
    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged file, missing array, wrong rank, width or dtype, NaN or infinity.
    """
    path = feature_path(root, video_id)
    place = f"{path}: video {video_id}: {field}"
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError("a single array")
        with file:
            names = [ascii(name)[1:-1] for name in file.files]
            array = file[field] if field in names else None
        if array is not None and not isinstance(array, np.ndarray):
            raise ValueError(f"{field} is not an array")
    except FileNotFoundError:
        raise FileNotFoundError(f"{place}: no such file") from None
    except Exception as error:  # damaged bytes raise nearly anything in zipfile and NumPy's header parser
        raise ValueError(f"{place}: damaged or not an .npz file of arrays ({' '.join(str(error).split())})") from None
    if array is None:
        raise ValueError(f"{place}: missing, found {', '.join(names) or 'nothing'}")
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{place}: found dtype {array.dtype}, expected floating point")
    if array.ndim != 2 or len(array) == 0:
        raise ValueError(f"{place}: found shape {array.shape}, expected (frames, {width or 'width'})")
    if width is not None and array.shape[1] != width:
        raise ValueError(f"{place}: found width {array.shape[1]}, expected {width}")
    with np.errstate(over="ignore"):  # becomes infinity, which the next line reports
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise ValueError(f"{place}: found {int((~np.isfinite(array)).sum())} values that are NaN or infinite")
    return array


def check_files(root, video_ids, what):
    """Make sure that every video has its feature file, with one listing of the folder.

    Raises:
        FileNotFoundError: the folder or a file is missing.
    """
    root = pathlib.Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: {what}: no such folder")
    there = {entry.name for entry in root.iterdir()}
    missing = [video_id for video_id in video_ids if f"{video_id}.npz" not in there]
    if missing:
        rest = f" (and those of {len(missing) - 1} more videos)" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{feature_path(root, missing[0])}: video {missing[0]}: {what}: no such file{rest}")


def is_complete(path, expected):
    """Tell whether a feature file is there, whole and with these arrays, without reading them.

    Args:
        path: where an `.npz` file would be.
        expected: name of an array -> its rows, None for any number.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name, rows in expected.items():
                with archive.open(f"{name}.npy") as member:
                    np.lib.format.read_magic(member)
                    shape, _, _ = np.lib.format.read_array_header_1_0(member)
                if rows is not None and shape[:1] != (rows,):
                    return False
    except Exception:  # damaged bytes raise nearly anything in zipfile and NumPy's header parser
        return False
    return True
