"""Checks of arrays from HDF5 and MATLAB files of other projects; each error is one line.

In messages, `context` is `path: video X: field`.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from utils.text import is_file_name

if TYPE_CHECKING:
    import h5py


class WrongContent(ValueError):
    """A field does not have the expected content."""


@contextlib.contextmanager
def one_line_read_errors(path: str | os.PathLike, expected: str) -> Iterator[None]:
    """Convert any error from a damaged file to one line that names the file.

    Args:
        path: the file that the block reads.
        expected: type of the file, for the message.
    """
    try:
        yield
    except WrongContent as error:
        raise ValueError(str(error)) from None
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except Exception as error:  # damaged bytes raise nearly anything in h5py and SciPy
        reason = " ".join(ascii(str(error))[1:-1].split())[:200] or type(error).__name__
        raise ValueError(f"{path}: annotations: damaged or not {expected} ({reason})") from None


def require(condition: bool | np.bool_, context: str, actual: object, expected: str) -> None:
    """Raise `WrongContent` unless a condition holds."""
    if not condition:
        raise WrongContent(f"{context}: found {actual}, expected {expected}")


def require_name(text: str, context: str) -> str:
    """Check the name of a video, which becomes part of a file name."""
    require(is_file_name(text), f"{context}: name", ascii(text)[:60], "a name, not a path")
    return text


def check_numbers(array: np.ndarray, context: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """Check that an array has finite numbers and a shape, in which None is any length above 0."""
    has_shape = array.ndim == len(shape) and all(n == m if m is not None else n for n, m in zip(array.shape, shape))
    expected = tuple("any" if m is None else m for m in shape)
    require(array.dtype.kind in "biuf" and has_shape, context, f"{array.dtype} {array.shape}", f"numbers {expected}")
    require(np.isfinite(array).all(), context, "NaN or infinity", "finite numbers")
    return array


def check_floats(array: np.ndarray, context: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """Check an array as `check_numbers` does and return it as float32, which must be finite too."""
    with np.errstate(over="ignore"):
        return check_numbers(check_numbers(array, context, shape).astype(np.float32), context, shape)


def check_scalar(array: np.ndarray, context: str, minimum: float, maximum: float) -> float:
    """Check a single number, in an array of any rank."""
    value = check_numbers(array.reshape(-1), context, (1,)).item()
    require(minimum <= value <= maximum, context, value, f"{minimum:g} to {maximum:g}")
    return value


def check_count(array: np.ndarray, context: str) -> int:
    """Check a single integer above 0."""
    value = check_scalar(array, context, 1, 2**31)
    require(value == int(value), context, value, "an integer")
    return int(value)


def read_dataset(group: "h5py.Group", field: str, context: str) -> np.ndarray:
    """Read a dataset of an HDF5 group."""
    import h5py

    node = group.get(field)
    require(isinstance(node, h5py.Dataset), f"{context}: {field}", "nothing", "an array")
    return np.asarray(node[()])
