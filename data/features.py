"""Features on disk -> checked arrays: a folder of `.npz` files, or a folder that `data.pack` made from one.

Axes: T frames at 1 fps, D width.
"""

import io
import os
import pathlib
import zipfile
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import safetensors

from data.annotations import Subset, VideoRecord, reindex

if TYPE_CHECKING:
    import torch

PACKED_FORMAT = "packed features 2"
# Array -> array that is read in its place if a file does not have it: VT-CLIPScore and F_CLIP may be of any encoder.
SUBSTITUTES = {"vision": "features"}


def open_features(
    root: str | os.PathLike, video_ids: Iterable[str], field: str, width: int | None, description: str
) -> "NpzFeatures | PackedFeatures":
    """Open a folder of features, packed or not, and make sure that it has every video.

    Args:
        root: folder.
        video_ids: the videos needed.
        field: array in the files: `features` of the frame encoder, or `vision` of VT-CLIP (else `features`).
        width: D, columns expected; None takes any.
        description: name of the features, for messages.
    Raises:
        FileNotFoundError, ValueError: the folder or a video is missing, or a packed file is damaged.
    """
    if not is_packed(root):
        check_files(root, video_ids, description)
        return NpzFeatures(root, field, width)
    features = PackedFeatures(root, field, width)
    missing = [video_id for video_id in video_ids if video_id not in features.videos]
    if missing:
        rest = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{root}: video {missing[0]}: {description}: not in the packed features{rest}")
    return features


def require_length(
    num_frames: int, record: VideoRecord, path: str | os.PathLike, max_frames: int | None = None
) -> None:
    """Raise a ValueError unless a video has as many frames of features as labels, after a cut of both.

    Args:
        num_frames: frames of features, before the cut.
        record: annotations of the video; without labels, any number of frames is accepted.
        path: path of the features.
        max_frames: number of frames that both are cut to; None does not cut.
    """
    if record.num_frames is None:
        return
    limit = max(num_frames, record.num_frames) if max_frames is None else max_frames
    if min(num_frames, limit) != min(record.num_frames, limit):
        raise ValueError(
            f"{path}: video {record.video_id}: features: "
            f"found {num_frames} frames, expected {record.num_frames} as in the labels"
        )


def require_finite(array: np.ndarray, context: str) -> None:
    """Raise a ValueError that begins with `context` if an array has NaN or infinity."""
    count = array.size - np.count_nonzero(np.isfinite(array))
    if count:
        raise ValueError(f"{context}: found {count} values that are NaN or infinite")


class NpzFeatures:
    """A folder with one `.npz` file per video."""

    def __init__(self, root: str | os.PathLike, field: str, width: int | None = None):
        self.root = root
        self.field = field
        self.width = width

    def path(self, video_id: str) -> pathlib.Path:
        """File of a video."""
        return feature_path(self.root, video_id)

    def load(self, video_id: str) -> np.ndarray:
        """Read one video: (T, D) float32; raises as `load_features`."""
        return load_features(self.root, video_id, self.field, self.width)

    def shape(self, video_id: str) -> tuple[int, int]:
        """Read the shape of one video's features, (T, D), from the file's header; raises as `load_features`."""
        try:
            shape = read_shape(self.path(video_id), self.field)
        except Exception:  # damaged bytes raise nearly anything in zipfile and NumPy's header parser
            shape = ()
        if len(shape) != 2 or self.width not in (None, shape[1]):
            shape = self.load(video_id).shape  # raises with the reason
        return shape[0], shape[1]


class PackedFeatures:
    """A folder of memory-mapped `{split}.safetensors`: one tensor (T, D) per video.

    Values are not checked on reading: `data.pack` has checked them, and `data.check` reads them all.

    Args:
        root: the folder.
        field: expected array, `features` of the frame encoder or `vision` of VT-CLIP.
        width: D, columns expected; None takes any.
    Raises:
        ValueError: a file is damaged, of an earlier version, or of another field or width; a video is in two files.
    """

    def __init__(self, root: str | os.PathLike, field: str, width: int | None = None):
        self.root = root
        self.field = field
        self.width = width
        self.videos: dict[str, tuple[pathlib.Path, torch.Tensor]] = {}  # video id -> (path, mapped tensor)
        if not packed_files(root):
            raise ValueError(
                f"{root}: packed features: found the format of an earlier version, expected *.safetensors; pack them "
                f"again: python -m data.pack --features DIR --annotations FILE... --field {field} --out {root}"
            )
        for path in packed_files(root):
            self._map(path)

    def _map(self, path: pathlib.Path) -> None:
        """Map a file; check its metadata and the shape and type of each tensor."""
        context = f"{path}: packed features"
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata, video_ids = file.metadata() or {}, file.keys()
                tensors = {video_id: file.get_tensor(video_id) for video_id in video_ids}
        except (safetensors.SafetensorError, OSError) as error:
            raise ValueError(f"{context}: damaged ({error}); pack the features again") from None
        for name, expected in (("format", (PACKED_FORMAT,)), ("field", _accepted_names(self.field))):
            if metadata.get(name) not in expected:
                raise ValueError(f"{context}: {name}: found {metadata.get(name)!r}, expected {expected[0]!r}")
        for video_id, tensor in tensors.items():
            if video_id in self.videos:
                raise ValueError(f"{context}: video {video_id}: found in {self.path(video_id)} too")
            if tensor.ndim != 2 or self.width not in (None, tensor.shape[1]) or not tensor.is_floating_point():
                dtype = str(tensor.dtype).removeprefix("torch.")
                raise ValueError(
                    f"{context}: video {video_id}: found {dtype} {tuple(tensor.shape)}, "
                    f"expected float (frames, {self.width or 'width'})"
                )
            self.videos[video_id] = path, tensor

    def __reduce__(self) -> tuple[type["PackedFeatures"], tuple[str | os.PathLike, str, int | None]]:
        """Pickle the arguments: a spawned worker of a loader maps the files itself."""
        return PackedFeatures, (self.root, self.field, self.width)

    def path(self, video_id: str) -> pathlib.Path:
        """File that holds a video's features."""
        return self.videos[video_id][0]

    def load(self, video_id: str) -> np.ndarray:
        """Read one video: (T, D) float32.

        float32 features are a view of the mapped file: do not change them in place, later calls would return the
        changed values.
        """
        _, tensor = self.videos[video_id]
        return tensor.float().numpy()  # for float16, 10 times as fast as NumPy's conversion

    def shape(self, video_id: str) -> tuple[int, int]:
        """Shape of one video's features, (T, D)."""
        _, tensor = self.videos[video_id]
        return tensor.shape[0], tensor.shape[1]


def is_packed(root: str | os.PathLike) -> bool:
    """Whether a folder has packed features, of this version or an earlier one."""
    earlier = (path.with_suffix(".npy").is_file() for path in pathlib.Path(root).glob("*.json"))
    return bool(packed_files(root)) or any(earlier)


def packed_files(root: str | os.PathLike) -> list[pathlib.Path]:
    """Return the sorted files of packed features; [] if the folder has none."""
    return sorted(pathlib.Path(root).glob("*.safetensors"))


def feature_path(root: str | os.PathLike, video_id: str) -> pathlib.Path:
    """Path of a video's `.npz` file."""
    return pathlib.Path(root, f"{video_id}.npz")


def load_features(root: str | os.PathLike, video_id: str, field: str, width: int | None = None) -> np.ndarray:
    """Read one array of frame features.

    Args:
        root: folder of `{video_id}.npz`.
        video_id: the video.
        field: array in the file: `features` of the frame encoder, `vision` or `text` of VT-CLIP.
        width: D, columns expected; None takes any.
    Returns:
        (T, D) float32, finite.
    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged file, missing array, wrong rank, width or dtype, NaN or infinity.
    """
    path = feature_path(root, video_id)
    context = f"{path}: video {video_id}: {field}"
    try:
        with zipfile.ZipFile(path) as archive:
            names, array = archive.namelist(), None
            member = _find_member(field, names)
            if member:  # `read` verifies the checksum
                array = np.load(io.BytesIO(archive.read(member)), allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{context}: no such file") from None
    except Exception as error:  # damaged bytes raise nearly anything in zipfile and NumPy's header parser
        reason = " ".join(ascii(str(error))[1:-1].split())[:200]
        raise ValueError(f"{context}: damaged or not an .npz file of arrays ({reason})") from None
    if array is None:
        raise ValueError(f"{context}: missing, found {ascii(', '.join(names))[1:-1][:200] or 'nothing'}")
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{context}: found dtype {array.dtype}, expected floating point")
    if array.ndim != 2 or array.size == 0 or width not in (None, array.shape[1]):
        raise ValueError(f"{context}: found shape {array.shape}, expected (frames, {width or 'width'})")
    with np.errstate(over="ignore"):  # becomes infinity, which the next line reports
        array = array.astype(np.float32, copy=False)
    require_finite(array, context)
    return array


def check_files(root: str | os.PathLike, video_ids: Iterable[str], description: str) -> None:
    """Check that every video has its feature file, with a single listing of the folder.

    Raises:
        FileNotFoundError: the folder or a file is missing.
    """
    root = pathlib.Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: {description}: no such folder")
    present = {entry.name for entry in root.iterdir()}
    missing = [video_id for video_id in video_ids if f"{video_id}.npz" not in present]
    if missing:
        rest = f" (and those of {len(missing) - 1} more videos)" if len(missing) > 1 else ""
        path = feature_path(root, missing[0])
        raise FileNotFoundError(
            f"{path}: video {missing[0]}: {description}: no such file{rest}; run python -m data.download for VideoXum, "
            "or extract_features.py"
        )


def is_complete(path: str | os.PathLike, expected: dict[str, int | None]) -> bool:
    """Whether a feature file exists, is complete and has these arrays; reads only their headers.

    Args:
        path: `.npz` file.
        expected: name of an array -> number of its rows, None for any number.
    """
    try:
        shapes = {name: read_shape(path, name) for name in expected}
    except Exception:  # damaged bytes raise nearly anything in zipfile and NumPy's header parser
        return False
    return all(rows is None or shapes[name][:1] == (rows,) for name, rows in expected.items())


def read_shape(path: str | os.PathLike, name: str) -> tuple[int, ...]:
    """Read the shape of an array of an `.npz` file from its header.

    Raises:
        Exception: of nearly any type, if the file is missing or damaged or has no such array.
    """
    with zipfile.ZipFile(path) as archive, archive.open(_find_member(name, archive.namelist())) as member:
        is_first = np.lib.format.read_magic(member) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
        shape, _, _ = read(member)
    return shape


def list_video_ids(root: str | os.PathLike) -> list[str]:
    """List the videos of a folder of frame features, packed or not, by name.

    Raises:
        FileNotFoundError, ValueError: no such folder, it has no features, or a packed file is damaged.
    """
    if not pathlib.Path(root).is_dir():
        raise FileNotFoundError(f"{root}: frame features: no such folder")
    if is_packed(root):
        return sorted(PackedFeatures(root, "features").videos)
    names = [path.stem for path in pathlib.Path(root).glob("*.npz") if not path.name.startswith(".")]
    if not names:
        raise FileNotFoundError(f"{root}: frame features: found no .npz file, expected one per video")
    return sorted(names)


def list_unlabeled(root: str | os.PathLike, subset: Subset | None = None) -> list[VideoRecord]:
    """List the videos of a folder of frame features as records without labels; the duration is that of the frames.

    Args:
        root: folder of frame features, packed or not.
        subset: keep these videos only; None keeps all.
    Raises:
        FileNotFoundError, ValueError: see `list_video_ids`; a file is damaged, or no video is left.
    """
    video_ids = list_video_ids(root)
    features = open_features(root, video_ids, "features", None, "frame features")
    records = [VideoRecord(video_id, -1, features.shape(video_id)[0]) for video_id in video_ids]
    return reindex(records) if subset is None else subset.select(records, root)


def read_width(root: str | os.PathLike) -> int:
    """Read the width of the first video of a folder of frame features, packed or not.

    Raises:
        FileNotFoundError, ValueError: see `list_video_ids`, or the file is damaged.
    """
    first = list_video_ids(root)[0]
    return open_features(root, [first], "features", None, "frame features").shape(first)[1]


def _accepted_names(field: str) -> tuple[str, ...]:
    """Names of the arrays that are read for a field, in order of preference."""
    return (field, SUBSTITUTES[field]) if field in SUBSTITUTES else (field,)


def _find_member(field: str, names: list[str]) -> str:
    """Name of an array's member of an `.npz` archive; "" if it has none."""
    return next((f"{name}.npy" for name in _accepted_names(field) if f"{name}.npy" in names), "")
