"""Read checkpoints, and convert the published layouts to this project's parameter names.

Conversions are pure functions of state dicts. Loading is strict: missing, extra or misshaped parameters are an error
that lists them, except for the optional parts below.

torch is imported lazily: `python -m models.weights --help` does not need it.
"""

import argparse
import dataclasses
import hashlib
import json
import logging
import os
import pickle
import shlex
import warnings
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import safetensors

from utils.command_line import OneLineParser
from utils.download import resolve_file
from utils.files import atomic_write
from utils.log import run_main

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

StateDict = dict[str, "torch.Tensor"]

DECODER = "text_decoder."
DECODER_POSITIONS = "text_decoder.bert.embeddings.position_embeddings.weight"
POSITION_TABLE = "position_embeddings.weight"
FEATURE_PROJECTION = "feature_projection.weight"
# Endings of the parameters of BLIP's decoder, besides the position table, that depend on the width of the features.
FRAME_KEYS_AND_VALUES = ("crossattention.self.key.weight", "crossattention.self.value.weight")
POSITION_INITS = ("blip", "normal")  # of the frames' position table, when BLIP's weights are loaded
# Parts of a checkpoint that a smaller model may not have: prefix -> description.
OPTIONAL_PARTS = {
    "local_atten_head.": "context aggregation",
    "vsum_head.": "the saliency head",
    DECODER: "the caption decoder",
}


class DamagedCheckpoint(ValueError):
    """A checkpoint file cannot be read: truncated, changed, or not a checkpoint."""


class TorchScriptArchive(ValueError):
    """The file is a TorchScript archive, which executes code when it is loaded, not a checkpoint."""


def read_checkpoint(source: str | os.PathLike) -> Any:
    """Load a checkpoint file without executing code from it.

    Args:
        source: path or URL of a file of `torch.save` (zip format, PyTorch 1.6 and later), or of a safetensors file.
    Returns:
        The content of the file, tensors on the CPU. They are memory-mapped: the file may be replaced, but not changed
        in place. For a safetensors file: `model`, and the `CheckpointMetadata` of its metadata.
    Raises:
        FileNotFoundError: no such file.
        TorchScriptArchive: the file is a TorchScript archive.
        DamagedCheckpoint: the file is truncated or changed, not a checkpoint, or would execute code when loaded.
    """
    path = resolve_file(source)
    try:
        with open(path, "rb") as file:
            is_safetensors = file.read(9)[8:] == b"{"
        return _read_safetensors(path) if is_safetensors else _read_zip(path)
    except TorchScriptArchive:
        raise
    except pickle.UnpicklingError:
        reason = "refused to load: found objects other than tensors and plain values, which may execute code"
    except Exception as error:  # damaged bytes raise nearly anything in zipfile, torch and safetensors
        text = " ".join(ascii(str(error))[1:-1].split())[:200]
        expected = "a whole file of torch.save (PyTorch 1.6 or later) or safetensors"
        reason = f"damaged or not a checkpoint, expected {expected} ({type(error).__name__}: {text})"
    raise DamagedCheckpoint(f"{path}: checkpoint: {reason}")


def _read_zip(path: str | os.PathLike) -> Any:
    import torch

    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise TorchScriptArchive(
                f"{path}: checkpoint: found a TorchScript archive, which executes code when loaded, expected "
                f"parameters; convert it with `python -m models.weights convert {shlex.quote(str(path))} "
                "OUT.safetensors --allow_torchscript` and name OUT.safetensors instead"
            )
        changed = archive.testzip()  # torch.load does not compare checksums
        if changed is not None:
            raise zipfile.BadZipFile(f"{changed}: wrong checksum")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _read_safetensors(path: str | os.PathLike) -> dict[str, dict[str, Any]]:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        entries = {name: json.loads(metadata.get(name, "{}")) for name in METADATA_ENTRIES}
        return dict(model={name: file.get_tensor(name) for name in file.keys()}, **entries)  # noqa: SIM118


@dataclasses.dataclass(frozen=True)
class CheckpointMetadata:
    """What a checkpoint records about its training, in plain values.

    Attributes:
        config: the settings.
        encoder: the encoder of the frame features, see `models.frame_encoders.FrameEncoder.describe`.
        decoder_base: frozen weights of the caption decoder, see `models.caption_decoder.CaptionDecoder.describe_base`.
    """

    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    encoder: dict[str, Any] = dataclasses.field(default_factory=dict)
    decoder_base: dict[str, Any] = dataclasses.field(default_factory=dict)


METADATA_ENTRIES = tuple(field.name for field in dataclasses.fields(CheckpointMetadata))


def read_metadata(checkpoint: Any) -> CheckpointMetadata:
    """Return the metadata in a checkpoint; {} for entries that it does not have."""
    entries = checkpoint if isinstance(checkpoint, dict) else {}
    return CheckpointMetadata(
        **{name: entries[name] for name in METADATA_ENTRIES if isinstance(entries.get(name), dict)}
    )


def write_weights(path: str | os.PathLike, state: StateDict, metadata: CheckpointMetadata) -> None:
    """Write parameters as safetensors, if the name ends in .safetensors, or by `torch.save`.

    Args:
        path: file to write or replace.
        state: parameters by name.
        metadata: stored with them.
    """
    import safetensors.torch
    import torch

    entries = {name: entry for name, entry in dataclasses.asdict(metadata).items() if entry or name == "config"}
    state = {name: value.contiguous().clone() for name, value in state.items()}  # safetensors refuses shared storage
    with atomic_write(path, "wb") as file:
        if str(path).endswith(".safetensors"):
            texts = {name: json.dumps(entry) for name, entry in entries.items()}
            file.write(safetensors.torch.save(state, metadata=dict(format="pt", **texts)))
        else:
            torch.save(dict(model=state, **entries), file)


def extract_state_dict(checkpoint: Any, path: str | os.PathLike) -> StateDict:
    """Return the parameters of a checkpoint: its entry `model`, or the checkpoint itself; without DDP's `module.`.

    Raises:
        ValueError: it is not a dictionary from names to dense tensors.
    """
    state = checkpoint.get("model", checkpoint) if isinstance(checkpoint, dict) else checkpoint
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{path}: model: found {type(state).__name__}, expected a dictionary of parameters")
    wrong = [str(name) for name, value in state.items() if not isinstance(name, str) or not _is_dense(value)]
    if wrong:
        raise ValueError(f"{path}: model: expected only dense tensors by name, found something else at {_first(wrong)}")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return {name: value for name, value in state.items() if not name.endswith("position_ids")}


def _is_dense(value: Any) -> bool:
    import torch

    is_strided = isinstance(value, torch.Tensor) and value.layout is torch.strided
    return is_strided and not value.is_quantized and value.device.type == "cpu"


def require_finite_parameters(state: StateDict, path: str | os.PathLike) -> None:
    """Raise a ValueError that names the parameters of a state dict with NaN or infinity."""
    non_finite = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if non_finite:
        raise ValueError(f"{path}: model: found NaN or infinity in {_first(non_finite)}")


def hash_weights(module: "torch.nn.Module") -> str:
    """Return the hex SHA-256 of a module's parameters and their names, independent of the file format."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_feature_width(state: StateDict, path: str | os.PathLike) -> int:
    """Return the width of the frame features that the parameters of a VTSUM-BLIP are for.

    Raises:
        ValueError: they are not those of a VTSUM-BLIP.
    """
    table = state.get(FEATURE_PROJECTION, state.get(POSITION_TABLE))
    if table is None or table.ndim != 2:
        raise ValueError(f"{path}: model: found no {POSITION_TABLE}, expected a checkpoint of VTSUM-BLIP")
    return table.shape[1]


def is_blip_state_dict(state: StateDict) -> bool:
    """Whether parameter names are those of BLIP, not of VTSUM-BLIP."""
    return POSITION_TABLE not in state and any(name.startswith(("visual_encoder.", DECODER)) for name in state)


def convert_blip_state_dict(state: StateDict, position_init: str = "blip") -> StateDict:
    """Convert BLIP's parameters to those of VTSUM-BLIP that they initialize.

    The caption decoder is unchanged; the image and text encoders are not part of VTSUM-BLIP.

    Args:
        state: BLIP's parameters.
        position_init: `blip` copies the decoder's position table to the frames'; `normal` leaves it out.
    """
    taken = {name: value for name, value in state.items() if name.startswith(DECODER)}
    if DECODER_POSITIONS in taken and position_init == "blip":
        taken[POSITION_TABLE] = taken[DECODER_POSITIONS].clone()
    return taken


class IncompatibleCheckpoint(ValueError):
    """A checkpoint does not fit the model.

    Attributes:
        mismatches: which parameters are missing, extra or of another shape.
        trained_with: the configuration in the checkpoint, {} if it has none.
    """

    def __init__(self, source: str | os.PathLike, mismatches: str, trained_with: dict[str, Any]) -> None:
        super().__init__(f"{source}: checkpoint does not fit the model; {mismatches}")
        self.mismatches = mismatches
        self.trained_with = trained_with


def load_weights(
    model: "torch.nn.Module", source: str | os.PathLike, *, position_init: str = "blip"
) -> CheckpointMetadata:
    """Load a checkpoint of BLIP or of VTSUM-BLIP, distinguished by their parameter names, into a model.

    A BLIP checkpoint does not change the temporal transformer, context aggregation and saliency head. If its features
    have another width, it does not change the position table and the decoder's keys and values of the frames either,
    with a warning. A VTSUM-BLIP checkpoint must match exactly, except that parts that the model does not have (context
    aggregation, a head) are ignored with a warning.

    Args:
        model: `VTSumBLIP`; parameters are copied in place.
        source: path or URL, see `utils.download.resolve_file`.
        position_init: for a BLIP checkpoint, `blip` copies the decoder's position table to the frames'; `normal` leaves
            the frames' as initialized, N(0, 1). Ignored for a VTSUM-BLIP checkpoint.
    Returns:
        The metadata in the checkpoint.
    Raises:
        FileNotFoundError, ValueError: see `read_checkpoint`.
        IncompatibleCheckpoint: parameters are missing, extra or of another shape.
    """
    checkpoint = read_checkpoint(source)
    state = extract_state_dict(checkpoint, source)
    expected = model.state_dict()
    required = set(expected)
    if is_blip_state_dict(state):
        required = {name for name in expected if name.startswith(DECODER)}
        state = convert_blip_state_dict(state, position_init)
        if required and DECODER_POSITIONS not in expected:  # a caption decoder other than BLIP's
            required = set()
            state = {name: value for name, value in state.items() if name == POSITION_TABLE}
        other_widths = _find_other_widths(state, expected, source)
        state = {name: value for name, value in state.items() if name not in other_widths}
        required -= set(other_widths)
    for prefix, part in OPTIONAL_PARTS.items():
        extra = [name for name in state if name.startswith(prefix)]
        if extra and not any(name.startswith(prefix) for name in expected):
            logger.warning("%s: ignored %s (%s*), which this model does not have", source, part, prefix)
            state = {name: value for name, value in state.items() if not name.startswith(prefix)}
    mismatches = describe_mismatches(state, expected, required)
    if mismatches:
        raise IncompatibleCheckpoint(source, mismatches, read_metadata(checkpoint).config)
    require_finite_parameters(state, source)
    model.load_state_dict(state, strict=False)
    return read_metadata(checkpoint)


def _find_other_widths(state: StateDict, expected: StateDict, source: str | os.PathLike) -> list[str]:
    """List the parameters of BLIP that are for frame features of another width, and log a warning that names them."""
    names = [
        name
        for name, value in state.items()
        if (name == POSITION_TABLE or name.endswith(FRAME_KEYS_AND_VALUES))
        and name in expected
        and value.shape[-1:] != expected[name].shape[-1:]
    ]
    if names:
        logger.warning(
            "%s: frame features are %d wide, found other widths in the checkpoint: randomly initialized: %s",
            source,
            expected[POSITION_TABLE].shape[1],
            _first(names),
        )
    return names


def describe_mismatches(state: StateDict, expected: StateDict, required: set[str]) -> str:
    """Describe the differences between a state dict and a model's; "" if there are none.

    Args:
        state: parameters by name.
        expected: the model's.
        required: names in `expected` that must not be missing.
    """
    shapes = [
        f"{name} (found {tuple(state[name].shape)}, expected {tuple(expected[name].shape)})"
        for name in sorted(state.keys() & expected.keys())
        if state[name].shape != expected[name].shape
    ]
    types = [
        f"{name} (found {state[name].dtype}, expected {expected[name].dtype})"
        for name in sorted(state.keys() & expected.keys())
        if state[name].is_floating_point() != expected[name].is_floating_point()
    ]
    names_by_kind = {
        "missing": sorted(required - state.keys()),
        "extra": sorted(state.keys() - expected.keys()),
        "wrong shape": shapes,
        "wrong type": types,
    }
    return "; ".join(f"{kind}: {_first(names)}" for kind, names in names_by_kind.items() if names)


def _first(names: Sequence[str], count: int = 5) -> str:
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest


def main(argv: Sequence[str] | None = None) -> None:
    parser = OneLineParser(prog="python -m models.weights", description="Convert checkpoints.")
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser("convert", help="write the weights alone, without the optimizer")
    convert.add_argument("source", metavar="IN", help="checkpoint: path or URL")
    convert.add_argument("out", metavar="OUT", help="file that ends in .safetensors or .pth")
    convert.add_argument(
        "--allow_torchscript",
        action="store_true",
        help="load a TorchScript archive by torch.jit.load, which EXECUTES the code in it: for trusted files only",
    )
    _convert(parser.parse_args(argv))


def _convert(args: argparse.Namespace) -> None:
    if not args.out.endswith((".safetensors", ".pth")):
        raise ValueError(f"{args.out}: OUT: expected a name that ends in .safetensors or .pth")
    try:
        checkpoint = read_checkpoint(args.source)
    except TorchScriptArchive:
        if not args.allow_torchscript:
            raise
        print(f"{args.source}: executing the TorchScript archive to read its parameters")
        checkpoint = _execute_torchscript(resolve_file(args.source))
    state = extract_state_dict(checkpoint, args.source)
    write_weights(args.out, state, read_metadata(checkpoint))
    num_parameters = sum(value.numel() for value in state.values())
    print(f"{args.out}: {len(state)} tensors, {num_parameters} parameters, {os.path.getsize(args.out)} bytes")


def _execute_torchscript(path: str | os.PathLike) -> StateDict:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`torch\.jit\.load` is ", FutureWarning)  # archives have no other reader
            return torch.jit.load(str(path), map_location="cpu").state_dict()
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise DamagedCheckpoint(f"{path}: checkpoint: damaged TorchScript archive ({reason})") from None


if __name__ == "__main__":
    run_main(main)
