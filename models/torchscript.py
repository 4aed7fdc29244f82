"""Read the parameters of a TorchScript file without running what it holds.

`torch.jit.load` would run the archive's own code (`__setstate__`). Its `data.pkl` is a pickle of nested modules, whose
attributes are tensors, modules and plain values; here every class it names becomes an empty shell.
"""

import collections
import pickle
import zipfile

import torch

MOST_PICKLE_BYTES = 2**24
STORAGES = dict(FloatStorage=torch.float32, HalfStorage=torch.float16, DoubleStorage=torch.float64)
STORAGES |= dict(LongStorage=torch.int64, IntStorage=torch.int32, BoolStorage=torch.bool)
LISTS = {f"build_{kind}list" for kind in ("int", "double", "bool", "tensor")}


def is_torchscript(path):
    """Tell a TorchScript archive by the names of its members."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def read_torchscript(path):
    """Read parameters and buffers by their dotted names.

    Raises:
        ValueError: the file is damaged, or holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            member = next(name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
            if archive.getinfo(member).file_size > MOST_PICKLE_BYTES:
                raise ValueError(f"{member}: found more than {MOST_PICKLE_BYTES} bytes")
            with archive.open(member) as file:
                module = _Reader(file, archive, member.removesuffix("data.pkl")).load()
        return dict(_tensors(module, ""))
    except Exception as error:  # damaged bytes raise nearly anything in zipfile and the unpickler
        text = " ".join(ascii(str(error))[1:-1].split())[:200]
        raise ValueError(f"{path}: clip: damaged TorchScript file ({type(error).__name__}: {text})") from None


class _Shell(dict):
    """Stands for a module: its attributes."""

    def __setstate__(self, state):
        self.update(state)


class _Reader(pickle._Unpickler):  # Python's own: the one in C takes memory for whatever number a memo has
    def __init__(self, file, archive, root):
        super().__init__(file)
        self.archive, self.root = archive, root

    def find_class(self, module, name):
        if module.split(".")[0] == "__torch__":
            return _Shell
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch.jit._pickle" and name in LISTS:
            return list
        if (module, name) == ("torch.jit._pickle", "restore_type_tag"):
            return lambda value, kind: value
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise pickle.UnpicklingError(f"found {module}.{name}, expected tensors and modules")

    def persistent_load(self, key):
        _, dtype, name, _, count = key
        info = self.archive.getinfo(f"{self.root}data/{name}")
        if not info.compress_size == info.file_size == count * dtype.itemsize:
            raise ValueError(f"storage {name}: found {info.file_size} bytes, expected {count * dtype.itemsize}")
        data = bytearray(self.archive.read(info))
        return torch.frombuffer(data, dtype=dtype) if count else torch.empty(0, dtype=dtype)


def _tensor(storage, offset, size, stride, *_):
    return storage.as_strided(size, stride, offset)


def _tensors(module, prefix):
    for name, value in module.items():
        if isinstance(value, _Shell):
            yield from _tensors(value, f"{prefix}{name}.")
        elif isinstance(value, torch.Tensor):
            yield f"{prefix}{name}", value
