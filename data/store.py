"""Packed features: all videos of a split in one file that is mapped into memory.

A folder holds, for each split, `{name}.npy`, the frames of all its videos one after another, (frames, width), and
`{name}.json`: where each video lies, its checksum, and what the file was made from.
"""

import json
import pathlib
import zlib

import numpy as np
import torch

from utils.files import atomic_write, read_json

FORMAT = 1
DTYPES = ("float32", "float16")


class FeatureStore:
    """Features in packed form; only the frames asked for are read.

    Args:
        root: folder of `{name}.npy` and `{name}.json`.
        field: what the features have to be, `features` of BLIP or `vision` of VT-CLIP.
        width: columns expected; None takes any.
    Raises:
        ValueError: an index is damaged or does not fit its file, the field or the width; a video lies in two files.
    """

    def __init__(self, root, field, width=None):
        self.arguments, self.videos, self.verified = (root, field, width), {}, set()
        for path in indices(root):
            index, place = read_index(path), f"{path}: packed features"
            if index["field"] != field:
                raise ValueError(f"{place}: field: found {index['field']!r}, expected {field!r}")
            frames = _mapped(path, index)
            if width is not None and frames.shape[1] != width:
                raise ValueError(f"{place}: found width {frames.shape[1]}, expected {width}")
            plain = frames.view(np.ndarray)  # slices of a memmap are slow to make
            for video_id, (start, count, checksum) in index["videos"].items():
                if video_id in self.videos:
                    raise ValueError(f"{place}: video {video_id}: found in {self.path(video_id)} too")
                self.videos[video_id] = plain, start, start + count, checksum, frames.filename

    def __reduce__(self):  # a mapped array would travel to a loader's worker with all its bytes
        return FeatureStore, self.arguments

    def __contains__(self, video_id):
        return video_id in self.videos

    def path(self, video_id):
        """File that holds a video's features."""
        return self.videos[video_id][-1]

    def load(self, video_id):
        """Read one video: (T, width) float32."""
        frames = np.array(self.stored(video_id))  # a copy: the file is mapped for reading only
        return frames if frames.dtype == np.float32 else torch.from_numpy(frames).float().numpy()  # 10x NumPy's cast

    def stored(self, video_id):
        """One video as it is stored, not copied: (T, width) float32 or float16.

        Raises:
            ValueError: on the first reading, its bytes are not those that were packed.
        """
        frames, start, stop, checksum, path = self.videos[video_id]
        frames = frames[start:stop]
        if video_id not in self.verified:
            _compare(frames, checksum, path, video_id)
            self.verified.add(video_id)
        return frames


def indices(root):
    """Index files of a folder of packed features, sorted; [] where it holds none."""
    root = pathlib.Path(root)
    return sorted(path for path in root.glob("*.json") if path.with_suffix(".npy").is_file())


def read_index(path):
    """Read an index.

    Returns:
        dictionary with `field`, `source`, `dtype` and `videos`: video id -> [first frame, frames, CRC-32 of its bytes].
    Raises:
        ValueError: it is damaged, or of another format.
    """
    place = f"{path}: packed features"
    index = read_json(path, "packed features")
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        found = index.get("format") if isinstance(index, dict) else type(index).__name__
        raise ValueError(f"{place}: format: found {found!r}, expected {FORMAT}; pack the features again")
    videos = index.get("videos")
    entries = videos.values() if isinstance(videos, dict) else [None]
    whole = all(isinstance(e, list) and len(e) == 3 and all(isinstance(n, int) and n >= 0 for n in e) for e in entries)
    if not whole or not all(isinstance(index.get(name), str) for name in ("field", "source", "dtype")):
        raise ValueError(f"{place}: damaged index; pack the features again")
    return index


def _mapped(path, index):
    """Map the file of an index into memory: (frames, width)."""
    file = path.with_suffix(".npy")
    try:
        frames = np.load(file, mmap_mode="r", allow_pickle=False)
        if not isinstance(frames, np.ndarray):
            raise ValueError("an .npz file")
    except Exception as error:  # damaged bytes raise nearly anything in NumPy's header parser
        raise ValueError(f"{file}: packed features: damaged ({' '.join(str(error).split())})") from None
    end = 0
    for video_id, (start, count, _) in index["videos"].items():
        if start != end or count < 1:
            raise ValueError(f"{path}: packed features: video {video_id}: damaged index; pack the features again")
        end = start + count
    if frames.ndim != 2 or len(frames) != end or str(frames.dtype) != index["dtype"] or index["dtype"] not in DTYPES:
        raise ValueError(
            f"{file}: packed features: found shape {frames.shape} of {frames.dtype}, "
            f"expected {end} frames of {index['dtype']} as in {path.name}"
        )
    return frames


def write_store(root, name, videos, *, field, source, dtype):
    """Pack videos into `{name}.npy` and `{name}.json`; nothing half-written is left behind.

    Args:
        root: folder, which is there.
        name: of the split.
        videos: list of (video id, frames); the arrays are asked for one by one.
        field, source: what the features are, and where they come from.
        dtype: `float32` or `float16`.
    Returns:
        number of frames.
    Raises:
        ValueError: a value does not fit into `dtype`, or the videos' widths differ.
    """
    path, entries, end, width = pathlib.Path(root, f"{name}.npy"), {}, 0, None
    with atomic_write(path, "wb") as file:
        header = 0
        for video_id, array in videos:
            place = f"{source}: video {video_id}: {field}"
            if width is None:
                width = array.shape[1]
                header = _write_header(file, dtype, 0, width)
            if array.shape[1] != width:
                raise ValueError(f"{place}: found width {array.shape[1]}, expected {width} as of the videos before")
            with np.errstate(over="ignore"):
                small = np.ascontiguousarray(array, dtype)
            if not np.isfinite(small).all():
                raise ValueError(f"{place}: found {np.abs(array).max():g}, too large for {dtype}")
            data = small.tobytes()
            file.write(data)
            entries[video_id] = [end, len(array), zlib.crc32(data)]
            end += len(array)
        path.with_suffix(".json").unlink(missing_ok=True)  # an index of other data must not stand beside these
        file.seek(0)
        assert _write_header(file, dtype, end, width) == header, "the header grew into the data"
    index = dict(format=FORMAT, field=field, source=str(source), dtype=dtype, videos=entries)
    with atomic_write(path.with_suffix(".json")) as file:
        json.dump(index, file)
    return end


def _write_header(file, dtype, frames, width):
    """Write the header of an .npy file, of the same size whatever the number of frames; returns where data begins."""
    header = f"{{'descr': '{np.dtype(dtype).str}', 'fortran_order': False, 'shape': ({frames}, {width}), }}"
    file.write(b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117).encode() + b"\n")
    return file.tell()


def verify(path):
    """Compare every video of a packed file with its checksum.

    Raises:
        ValueError: a video's bytes have changed; the message names it.
    """
    index = read_index(path)
    frames = _mapped(path, index)
    for video_id, (start, count, checksum) in index["videos"].items():
        _compare(frames[start : start + count], checksum, path.with_suffix(".npy"), video_id)


def _compare(frames, checksum, path, video_id):
    if zlib.crc32(frames.view(np.uint8)) != checksum:
        raise ValueError(f"{path}: video {video_id}: its checksum is not that of the index")
