"""Arrays in MATLAB and HDF5 files that come from strangers: checked, and small before memory is taken."""

import contextlib
import io
import math
import mmap
import zlib

import numpy as np

# More is refused. TVSum's file has 7e6 values, an eccv16 file 3e7; SumMe's largest .mat unpacks to some MB.
MOST_VALUES, MOST_BYTES = 2**27, 2**27
MOST_NAME = 200
HEAP = b"GCOL\x01\0\0\0"  # how a heap of an HDF5 file begins: its signature and version
MATRIX, COMPRESSED = 14, 15  # types of a MATLAB 5 file's elements
MATLAB_NUMBERS = {"logical", "double", "single"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


class Wrong(ValueError):
    """A field is not what it has to be; the text is the whole message."""


@contextlib.contextmanager
def one_line(path, what):
    """Turn whatever a damaged file raises into one line that names it."""
    try:
        yield
    except Wrong as error:
        raise ValueError(str(error)) from None
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except Exception as error:  # damaged bytes raise nearly anything in h5py and SciPy
        reason = " ".join(ascii(str(error))[1:-1].split())[:200] or type(error).__name__
        raise ValueError(f"{path}: annotations: damaged or not {what} ({reason})") from None


def require(right, place, found, expected):
    """Raise `Wrong` unless something is right."""
    if not right:
        raise Wrong(f"{place}: found {found}, expected {expected}")


def name(text, place):
    """Check the name of a video, which becomes part of a file's."""
    usable = (
        text.isprintable() and 0 < len(text) <= MOST_NAME and text not in (".", "..") and not set(text) & set("/\\")
    )
    require(usable, f"{place}: name", ascii(text)[:60], "a name, not a path")
    return text


def numbers(array, place, shape):
    """Check an array of numbers against a shape, in which None stands for any length above 0."""
    fits = array.ndim == len(shape) and all(n == m if m is not None else n for n, m in zip(array.shape, shape))
    expected = tuple("any" if m is None else m for m in shape)
    require(array.dtype.kind in "biuf" and fits, place, f"{array.dtype} {array.shape}", f"numbers {expected}")
    require(np.isfinite(array).all(), place, "NaN or infinity", "finite numbers")
    return array


def floats(array, place, shape):
    """Check an array as `numbers` does and return it as float32, in which it must be finite too."""
    with np.errstate(over="ignore"):
        return numbers(numbers(array, place, shape).astype(np.float32), place, shape)


def scalar(array, place, least, most):
    """Check a single number, in an array of any rank."""
    value = numbers(array.reshape(-1), place, (1,)).item()
    require(least <= value <= most, place, value, f"{least:g} to {most:g}")
    return value


def count(array, place):
    """Check a single whole number above 0."""
    value = scalar(array, place, 1, MOST_VALUES)
    require(value == int(value), place, value, "a whole number")
    return int(value)


@contextlib.contextmanager
def open_hdf5(path, what):
    """Open an HDF5 file; an error in the block becomes one line that names the file.

    Yields:
        `Hdf5`.
    """
    import h5py

    with one_line(path, what):
        _require_finite_heaps(path)
        with h5py.File(path, "r") as file:
            yield Hdf5(file)


def _require_finite_heaps(path):
    """Walk the heaps of variable-length text: an empty hole in a damaged one lets HDF5 (2.0 too) loop without end."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = data.find(HEAP)
        while start >= 0:
            end = start + int.from_bytes(data[start + 8 : start + 16], "little")
            place = start + 16
            while place + 16 <= end:
                index, size = (int.from_bytes(data[place + a : place + b], "little") for a, b in ((0, 2), (8, 16)))
                step = size if index == 0 else 16 + size + -size % 8
                require(16 <= step <= end - place, f"{path}: annotations", "a damaged heap", "an HDF5 file")
                place += step
            start = data.find(HEAP, start + 1)


class Hdf5:
    """The arrays of one open HDF5 file, up to `MOST_VALUES` in all."""

    def __init__(self, file):
        self.file, self.left = file, MOST_VALUES

    def array(self, node, place):
        """Read a dataset of numbers, or of references, which must lie in this file."""
        import h5py

        self._require_plain(node, place)
        usable = node.dtype.kind in "biuf" or h5py.check_ref_dtype(node.dtype) is h5py.Reference
        require(usable, place, node.dtype, "numbers")
        self.left -= node.size
        return node[()]

    def text(self, node, place):
        """Read a dataset of one text."""
        self._require_plain(node, place)
        fits = node.size == 1 and node.dtype.kind in "SO" and node.dtype.itemsize <= MOST_NAME
        require(fits, place, f"{node.dtype} {node.shape}", "one text")
        return str(np.ravel(node.asstr()[()])[0])

    def _require_plain(self, node, place):
        import h5py

        require(isinstance(node, h5py.Dataset) and node.shape is not None, place, "nothing", "an array")
        inside = node.file.filename == self.file.filename and not node.external and not node.is_virtual
        require(inside, place, "a link to another file", "an array")
        size = max(node.size, math.prod(node.chunks or ()))  # a chunk is unpacked as a whole
        require(size <= self.left, place, f"shape {node.shape}", f"at most {MOST_VALUES} values in all")


def load_matlab5(path, fields):
    """Read arrays of numbers from a MATLAB 5 file.

    SciPy believes any size that a file states and may hang on a damaged stream; so it gets the file unpacked, at most
    `MOST_BYTES`, and is asked for nothing but numbers.

    Returns:
        dictionary of the fields that are there.
    """
    import scipy.io

    file, found = io.BytesIO(_unpacked(path)), {}
    for field, shape, kind in scipy.io.whosmat(file):
        if field in fields:
            size = math.prod(shape) if min(shape, default=0) >= 0 else math.inf
            right = kind in MATLAB_NUMBERS and size <= MOST_BYTES and field not in found
            require(right, f"{path}: {field}", f"{kind} {shape}", "one array of numbers")
            found[field] = shape
    return scipy.io.loadmat(file, variable_names=list(found)) if found else {}


def _unpacked(path):
    """Bytes of a MATLAB 5 file with its compressed elements unpacked."""
    place = f"{path}: annotations"
    with open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    require(len(data) <= MOST_BYTES, place, "a larger file", f"at most {MOST_BYTES} bytes")
    order = {b"IM": "little", b"MI": "big"}.get(data[126:128])
    require(order and data[:10] == b"MATLAB 5.0", place, "another format", "a MATLAB 5 file")
    parts, left, rest = [data[:128]], MOST_BYTES, memoryview(data)[128:]
    while rest:
        end = 8 + int.from_bytes(rest[4:8], order)
        element, rest = rest[:end], rest[end:]
        if int.from_bytes(element[:4], order) == COMPRESSED:
            stream = zlib.decompressobj()
            element = stream.decompress(element[8:], left + 1)
            left -= len(element)
            require(left >= 0, place, "more when unpacked", f"at most {MOST_BYTES} bytes")
            require(stream.eof, place, "a compressed element that ends too soon", "a whole one")
        kind, size = (int.from_bytes(element[at : at + 4], order) for at in (0, 4))
        require(kind == MATRIX and size == len(element) - 8, place, f"an element of type {kind}", "whole matrices")
        parts.append(element)
    return b"".join(parts)
