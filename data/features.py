"""Features on disk -> arrays, checked: a folder of `.npz` files, or one that `data.pack` made from it."""

import pathlib
import zipfile

import numpy as np

from data.store import FeatureStore, indices


def open_features(root, video_ids, field, width, what):
    """Open a folder of features, packed or not, and make sure that it has every video.

    Args:
        root: folder.
        video_ids: the videos needed.
        field: `features` of BLIP or `vision` of VT-CLIP.
        width: columns expected; None takes any.
        what: what the features are called in messages.
    Returns:
        `FeatureFiles` or `FeatureStore`: `load(video_id)` gives (T, width) float32, `path(video_id)` its file.
    Raises:
        FileNotFoundError, ValueError: the folder or a video is missing, or a packed file is damaged.
    """
    if not indices(root):
        check_files(root, video_ids, what)
        return FeatureFiles(root, field, width)
    store = FeatureStore(root, field, width)
    missing = [video_id for video_id in video_ids if video_id not in store]
    if missing:
        rest = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{root}: video {missing[0]}: {what}: not in the packed features{rest}")
    return store


def require_length(found, record, path):
    """Raise a ValueError unless a record's video has as many frames of features, `found`, as labels."""
    if found != record.num_frames:
        raise ValueError(
            f"{path}: video {record.video_id}: features: "
            f"found {found} frames, expected {record.num_frames} as in vsum_onehot"
        )


class FeatureFiles:
    """A folder with one `.npz` file per video."""

    def __init__(self, root, field, width=None):
        self.root, self.field, self.width = root, field, width

    def path(self, video_id):
        """File of a video."""
        return feature_path(self.root, video_id)

    def load(self, video_id):
        """Read one video: (T, width) float32; raises as `load_features`."""
        return load_features(self.root, video_id, self.field, self.width)

    stored = load


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
