"""Read checkpoints and bring every published layout to our parameter names.

The conversions are pure functions from state dict to state dict. Loading is strict: a parameter that is missing,
extra or of another shape is an error that lists it, unless a rule below excuses it by name.
"""

import hashlib
import logging
import pathlib
import pickle
import urllib.parse

import torch

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


def fetch(source):
    """Give the local path of a checkpoint; an http(s) URL is downloaded once into torch's hub cache.

    Raises:
        FileNotFoundError: there is no such file, or the URL cannot be read.
    """
    source = str(source)
    if urllib.parse.urlparse(source).scheme not in ("http", "https"):
        path = pathlib.Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"{source}: checkpoint: no such file")
        return path
    name = pathlib.PurePosixPath(urllib.parse.urlparse(source).path).name or "checkpoint.pth"
    # Two URLs may end in the same name, so each has a folder of its own.
    folder = pathlib.Path(torch.hub.get_dir(), "vtsum_blip", hashlib.sha256(source.encode()).hexdigest()[:16])
    if not (folder / name).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(source, str(folder / name), progress=False)
        except Exception as error:  # URLError, InvalidURL, UnicodeError, a full disk …
            raise FileNotFoundError(f"{source}: checkpoint: cannot be downloaded ({error})") from None
    return folder / name


def read_checkpoint(source):
    """Load a checkpoint file without ever running code from it.

    Args:
        source: path or http(s) URL of a file that `torch.save` wrote.
    Returns:
        what the file holds, tensors on the CPU.
    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, not a checkpoint, or wants to run code when loaded.
    """
    path = fetch(source)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes raise nearly anything in the unpickler
        text = str(error).strip()
        if isinstance(error, pickle.UnpicklingError) and ("GLOBAL" in text or "reduce" in text.lower()):
            reason = "it holds objects other than tensors and plain values, and loading them could run code: refused"
        else:
            reason = f"damaged or not a checkpoint ({type(error).__name__}: {(text.splitlines() or [''])[0][:200]})"
        raise ValueError(f"{path}: checkpoint: {reason}") from None


def state_dict_of(checkpoint, path):
    """Find the parameters in a checkpoint: under `model`, or the checkpoint itself; without DDP's `module.`.

    Raises:
        ValueError: neither is a dictionary from names to dense, finite tensors.
    """
    state = checkpoint.get("model", checkpoint) if isinstance(checkpoint, dict) else checkpoint
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{path}: model: found {type(state).__name__}, expected a dictionary of parameters")
    wrong = [str(name) for name, value in state.items() if not isinstance(name, str) or not _is_plain(value)]
    if wrong:
        raise ValueError(f"{path}: model: expected only dense tensors by name, found something else at {_some(wrong)}")
    bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise ValueError(f"{path}: model: found NaN or infinity in {_some(bad)}")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return {name: value for name, value in state.items() if not name.endswith("position_ids")}


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


def load_weights(model, source):
    """Load a checkpoint of BLIP or of VTSUM-BLIP into a model; which one it is, its content tells.

    A BLIP checkpoint leaves the temporal transformer, context aggregation and saliency head as initialised. A
    VTSUM-BLIP checkpoint must fit exactly, but parts that the model does not have (context aggregation, a head)
    are left out with a warning.

    Args:
        model: `VTSumBLIP`; parameters are copied in place.
        source: path or http(s) URL.
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
    problems = [f"{kind}: {_some(names)}" for kind, names in _kinds(missing, extra, shapes) if names]
    if problems:
        raise ValueError(f"{source}: checkpoint does not fit the model; " + "; ".join(problems))
    model.load_state_dict(state, strict=False)
    config = checkpoint.get("config")
    return config if isinstance(config, dict) else {}


def _kinds(missing, extra, shapes):
    return ("missing", missing), ("extra", extra), ("wrong shape", shapes)


def _some(names, most=20):
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
