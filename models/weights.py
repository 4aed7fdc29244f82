"""Read checkpoints and bring every published layout to our parameter names.

The conversions are pure functions from state dict to state dict. Loading is strict: a parameter that is missing,
extra or of another shape is an error that lists it, unless a rule below excuses it by name.
"""

import hashlib
import json
import logging
import os
import pickletools
import re
import zipfile

import safetensors.torch
import torch

from models.torchscript import MOST_PICKLE_BYTES
from utils.command_line import OneLineParser
from utils.download import resolve_file
from utils.files import atomic_write, parse_json
from utils.log import run_main

logger = logging.getLogger(__name__)

DECODER = "text_decoder."
DECODER_POSITIONS = "text_decoder.bert.embeddings.position_embeddings.weight"
POSITION_TABLE = "position_embeddings.weight"
# Modules that a checkpoint may hold and a smaller model may lack: prefix -> what it is.
OPTIONAL_PARTS = {
    "local_atten_head.": "context aggregation",
    "vsum_head.": "the saliency head",
    DECODER: "the caption decoder",
}

# What the pickle of a checkpoint may call: what makes tensors of the archive's bytes, and plain values.
CALLS = {"collections OrderedDict", "torch Size", "torch device"}
CALLS |= {f"torch._utils _rebuild_{name}" for name in ("tensor", "tensor_v2", "parameter")}
STORAGE = re.compile(r"torch(\.storage)? \w*Storage")


def read_checkpoint(source):
    """Load a checkpoint file without ever running code from it, nor taking more memory than the file has bytes.

    Args:
        source: path or URL of a file that `torch.save` wrote, or of a safetensors file.
    Returns:
        what the file holds, tensors on the CPU. They are mapped from the file: what is not read takes no memory, and
        a writer of the same name must replace the file, not change it. A safetensors file gives `model`, and `config`
        where its metadata has one.
    Raises:
        FileNotFoundError: no such file.
        DamagedCheckpoint: the file is torn or changed, not a checkpoint, or wants to run code when loaded.
    """
    path = resolve_file(source)
    try:
        with open(path, "rb") as file:
            head = file.read(9)
        if head.startswith(b"PK"):
            _check_archive(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if head[8:] == b"{":
            return _read_safetensors(path)
        raise ValueError("neither torch's zip format, of 1.6 and later, nor safetensors")
    except Exception as error:  # damaged bytes raise nearly anything in zipfile and the unpickler
        if isinstance(error, _WouldRunCode):
            reason = f"{error}: refused"
        else:
            text = " ".join(ascii(str(error))[1:-1].split())[:200]
            reason = f"damaged or not a checkpoint ({type(error).__name__}: {text})"
        raise DamagedCheckpoint(f"{path}: checkpoint: {reason}") from None


class DamagedCheckpoint(ValueError):
    """A checkpoint file cannot be read: torn, changed, or never one."""


class _WouldRunCode(Exception):
    """A checkpoint holds more than tensors and plain values."""


def _check_archive(path):
    """Make sure of a file of `torch.save`, before anything of it is built: its sizes, its checksums, what it calls."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise ValueError(f"{member.filename}: compressed, which torch never writes")
        if sum(member.file_size for member in members) > os.path.getsize(path):
            raise ValueError("members that overlap")
        pickled = [member for member in members if member.filename.endswith(".pkl")]
        if len(pickled) != 1 or pickled[0].file_size > MOST_PICKLE_BYTES:
            raise ValueError(f"expected one data.pkl of at most {MOST_PICKLE_BYTES} bytes")
        changed = archive.testzip()  # torch.load does not compare checksums
        if changed is not None:
            raise ValueError(f"{changed}: its checksum is wrong")
        _check_calls(archive.read(pickled[0]))


def _check_calls(pickled):
    """Raise `_WouldRunCode` unless a pickle calls nothing but what makes a tensor out of the archive's bytes."""
    for code, argument, _ in pickletools.genops(pickled):
        if code.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4") or (
            code.name == "GLOBAL" and argument not in CALLS and not STORAGE.fullmatch(argument)
        ):
            called = ascii(argument or code.name)[1:-1].replace(" ", ".")[:100]
            raise _WouldRunCode(f"it calls {called}, which loading tensors and plain values does not need")


def _read_safetensors(path):
    """Read a safetensors file, whose header the library checks against the file's size."""
    tensors, config = {}, {}
    with safetensors.safe_open(path, framework="pt") as file:
        config = parse_json((file.metadata() or {}).get("config", "{}"))
        for name in file.keys():  # noqa: SIM118 (it is no dictionary)
            tensors[name] = file.get_tensor(name)
    return dict(model=tensors, config=config)


def write_weights(path, state, config):
    """Write parameters as safetensors (a name that ends in .safetensors) or as `torch.save` does.

    Args:
        path: file to write or replace.
        state: parameters by name.
        config: dictionary of plain values that goes with them.
    """
    state = {name: value.contiguous().clone() for name, value in state.items()}  # safetensors takes none that share
    with atomic_write(path, "wb") as file:
        if str(path).endswith(".safetensors"):
            file.write(safetensors.torch.save(state, metadata=dict(format="pt", config=json.dumps(config))))
        else:
            torch.save(dict(model=state, config=config), file)


def state_dict_of(checkpoint, path):
    """Find the parameters in a checkpoint: under `model`, or the checkpoint itself; without DDP's `module.`.

    Raises:
        ValueError: neither is a dictionary from names to dense tensors that own their bytes.
    """
    state = checkpoint.get("model", checkpoint) if isinstance(checkpoint, dict) else checkpoint
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{path}: model: found {type(state).__name__}, expected a dictionary of parameters")
    wrong = [str(name) for name, value in state.items() if not isinstance(name, str) or not _is_plain(value)]
    if wrong:
        raise ValueError(f"{path}: model: expected only dense tensors by name, found something else at {_some(wrong)}")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return {name: value for name, value in state.items() if not name.endswith("position_ids")}


def require_finite(state, path):
    """Raise a ValueError that names the parameters of a state dict that hold NaN or infinity."""
    bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise ValueError(f"{path}: model: found NaN or infinity in {_some(bad)}")


def weights_sha256(module):
    """Hex SHA-256 of a module's parameters and their names, whatever file they came in."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _is_plain(value):
    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and not value.is_quantized
        and value.device.type == "cpu"
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()  # not one number shown as many
    )


def is_blip(state):
    """Tell a BLIP checkpoint from one of VTSUM-BLIP by what it holds."""
    return POSITION_TABLE not in state and any(name.startswith(("visual_encoder.", DECODER)) for name in state)


def from_blip(state):
    """Turn BLIP's parameters into those it initialises here.

    The caption decoder is taken as it is, the frames' position table from the decoder's; the image and text
    encoders are not part of VTSUM-BLIP.
    """
    taken = {name: value for name, value in state.items() if name.startswith(DECODER)}
    if DECODER_POSITIONS in taken:
        taken[POSITION_TABLE] = taken[DECODER_POSITIONS].clone()
    return taken


class DoesNotFit(ValueError):
    """A checkpoint that is not one of the model; `trained_with` is the configuration that it says, perhaps {}."""

    def __init__(self, message, trained_with):
        super().__init__(message)
        self.trained_with = trained_with


def load_weights(model, source):
    """Load a checkpoint of BLIP or of VTSUM-BLIP into a model; which one it is, its content tells.

    A BLIP checkpoint leaves the temporal transformer, context aggregation and saliency head as initialised. A
    VTSUM-BLIP checkpoint must fit exactly, but parts that the model does not have (context aggregation, a head)
    are left out with a warning.

    Args:
        model: `VTSumBLIP`; parameters are copied in place.
        source: path or URL, see `utils.download.resolve_file`.
    Returns:
        the configuration that the checkpoint says it was trained with: a dictionary, {} where it says none.
    Raises:
        FileNotFoundError, ValueError: see `read_checkpoint`; parameters missing, extra or of another shape.
    """
    checkpoint = read_checkpoint(source)
    state = state_dict_of(checkpoint, source)
    expected = {name: value.shape for name, value in model.state_dict().items()}
    if is_blip(state):
        state = from_blip(state)
        required = {name for name in expected if name.startswith(DECODER)}
        width = expected[POSITION_TABLE][1]
        if POSITION_TABLE in state and state[POSITION_TABLE].shape[-1:] != (width,):
            found = state.pop(POSITION_TABLE).shape[-1]
            logger.warning(
                "%s: the position table is %d wide and the frame features %d: position_embeddings stays as initialised",
                source,
                found,
                width,
            )
    else:
        required = set(expected)
    for prefix, part in OPTIONAL_PARTS.items():
        left_out = [name for name in state if name.startswith(prefix)]
        if left_out and not any(name.startswith(prefix) for name in expected):
            logger.warning("%s: left out %s (%s*), which this model does not have", source, part, prefix)
            state = {name: value for name, value in state.items() if not name.startswith(prefix)}
    missing = sorted(required - set(state))
    extra = sorted(set(state) - set(expected))
    shapes = [
        f"{name} (found {tuple(state[name].shape)}, expected {tuple(expected[name])})"
        for name in sorted(set(state) & set(expected))
        if state[name].shape != expected[name]
    ]
    whole = {name: value.dtype for name, value in state.items() if not value.is_floating_point()}
    shapes += [f"{name} (found {dtype}, expected real numbers)" for name, dtype in whole.items()]
    kinds = (("missing", missing), ("extra", extra), ("wrong shape", shapes))
    problems = [f"{kind}: {_some(names)}" for kind, names in kinds if names]
    if problems:
        raise DoesNotFit(f"{source}: checkpoint does not fit the model; " + "; ".join(problems), config_of(checkpoint))
    require_finite(state, source)
    model.load_state_dict(state, strict=False)
    return config_of(checkpoint)


def config_of(checkpoint):
    """The configuration that a checkpoint says it was trained with: a dictionary, {} where it says none."""
    config = checkpoint.get("config") if isinstance(checkpoint, dict) else None
    return config if isinstance(config, dict) else {}


def _some(names, most=5):
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def main(argv=None):
    parser = OneLineParser(prog="python -m models.weights", description="Convert checkpoints, write model cards.")
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser("convert", help="write the weights alone, without optimiser, as the name of OUT says")
    convert.add_argument("source", metavar="IN", help="checkpoint: path or URL")
    convert.add_argument("out", metavar="OUT", help="file that ends in .safetensors or .pth")
    card = commands.add_parser("card", help="write the model card of a run")
    card.add_argument("run", metavar="RUN", help="folder with checkpoint.pth and results")
    card.add_argument("--out", help="Markdown file to write (default: RUN/README.md)")
    args = parser.parse_args(argv)
    if args.command == "card":
        from report.card import write_card

        path = args.out or os.path.join(args.run, "README.md")
        write_card(args.run, path)
        print(f"{path}: look for [fill in]")
    else:
        _convert(args)


def _convert(args):
    if not args.out.endswith((".safetensors", ".pth")):
        raise ValueError(f"{args.out}: OUT: expected a name that ends in .safetensors or .pth")
    checkpoint = read_checkpoint(args.source)
    state = state_dict_of(checkpoint, args.source)
    write_weights(args.out, state, config_of(checkpoint))
    numbers = sum(value.numel() for value in state.values())
    print(f"{args.out}: {len(state)} tensors, {numbers} numbers, {os.path.getsize(args.out)} bytes")


if __name__ == "__main__":
    run_main(main)
