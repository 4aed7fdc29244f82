"""Features on disk -> arrays, checked: a folder of `.npz` files, or one that `data.pack` made from it."""

import pathlib
import zipfile

import numpy as np

from data.store import FeatureStore, indices

# More is refused before it is unpacked: 28 hours, and the widest image encoders there are.
MOST_FRAMES, MOST_WIDTH = 10**5, 2**13


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
        with zipfile.ZipFile(path) as archive:
            names = [ascii(name)[1:-1] for name in archive.namelist()]
            if f"{field}.npy" not in archive.namelist():
                raise _WrongArray(f"missing, found {', '.join(names)[:200] or 'nothing'}")
            with archive.open(f"{field}.npy") as member:
                array = _read_array(member, archive.getinfo(f"{field}.npy").file_size, width)
    except FileNotFoundError:
        raise FileNotFoundError(f"{place}: no such file") from None
    except _WrongArray as error:
        raise ValueError(f"{place}: {error}") from None
    except Exception as error:  # damaged bytes raise nearly anything in zipfile and NumPy's header parser
        reason = " ".join(ascii(str(error))[1:-1].split())[:200]
        raise ValueError(f"{place}: damaged or not an .npz file of arrays ({reason})") from None
    with np.errstate(over="ignore"):  # becomes infinity, which the next line reports
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise ValueError(f"{place}: found {int((~np.isfinite(array)).sum())} values that are NaN or infinite")
    return array


class _WrongArray(Exception):
    """An array is not what it has to be; the text says what was found and what was expected."""


def _read_array(member, size, width):
    """Read an array from an open member of `size` bytes; nothing is unpacked before its header fits."""
    shape, by_columns, dtype = _read_header(member)
    if not np.issubdtype(dtype, np.floating):
        raise _WrongArray(f"found dtype {dtype}, expected floating point")
    if len(shape) != 2 or 0 in shape:
        raise _WrongArray(f"found shape {shape}, expected (frames, {width or 'width'})")
    if width is not None and shape[1] != width:
        raise _WrongArray(f"found width {shape[1]}, expected {width}")
    count = shape[0] * shape[1]
    if shape[0] > MOST_FRAMES or shape[1] > MOST_WIDTH:
        raise _WrongArray(f"found shape {shape}, expected at most ({MOST_FRAMES}, {width or MOST_WIDTH})")
    if member.tell() + count * dtype.itemsize != size:
        raise _WrongArray(f"found {size} bytes, expected {member.tell() + count * dtype.itemsize} for shape {shape}")
    data = bytearray(member.read(count * dtype.itemsize))  # what torch may write to
    member.read(1)  # at the end the checksum is compared
    array = np.frombuffer(data, dtype, count)
    return array.reshape(shape[::-1]).T if by_columns else array.reshape(shape)


def _read_header(member):
    """Header of an .npy file: shape, whether it is laid out by columns, dtype."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(member)


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
                    shape, _, _ = _read_header(member)
                if rows is not None and shape[:1] != (rows,):
                    return False
    except Exception:  # damaged bytes raise nearly anything in zipfile and NumPy's header parser
        return False
    return True
