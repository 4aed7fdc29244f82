"""Frame encoders by name: decoded frames -> features, by an image encoder with its preprocessing and precision.

Axes: n frames, N texts, S image side, D feature width.
"""

import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import nn

from models.blip_vit import load_blip_vit
from models.packed_linear import prepacked_linears
from models.ragged import to_device
from models.vt_clip import VTClip, load_clip
from models.weights import describe_mismatches, extract_state_dict, hash_weights, read_checkpoint
from utils.device import autocast
from utils.download import is_url, resolve_file
from utils.encoder_names import NAME_FORMS, WEIGHTS_SUFFIXES, EncoderName
from utils.frame_transform import FrameTransform
from utils.log import one_line
from utils.precision import PrecisionName
from utils.validation import suggest_name

if TYPE_CHECKING:
    import open_clip

logger = logging.getLogger(__name__)

TEXTS_PER_BATCH = 64
EncodeTexts = Callable[[Sequence[str]], torch.Tensor]  # N texts -> (N, D), not normalized


class Normalize(nn.Module):
    """Converts frames to an image encoder's input: (n, S, S, 3) uint8 -> (n, 3, S, S) float32.

    Args:
        transform: has mean and standard deviation of each channel, of pixels in [0, 1].
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, transform: FrameTransform) -> None:
        super().__init__()
        for name, values in dict(mean=transform.mean, std=transform.std).items():
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std


class FrameEncoder(nn.Module):
    """An image encoder whose input is decoded frames, and the text encoder of the same model, if it has one.

    Args:
        image_encoder: (N, 3, S, S) normalized pixels -> (N, D).
        transform: preprocessing of the frames.
        precision: autocast precision of the image encoder.
        name: its name; None for an encoder without one.
        architecture: which identifies the encoder together with its weights; None is that of the name.
        model: the module that the weights' hash is of; None is `image_encoder`.
        text_encoder: N texts -> (N, D); None without one.
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        transform: FrameTransform,
        precision: PrecisionName = "fp32",
        *,
        name: EncoderName | None = None,
        architecture: str | None = None,
        model: nn.Module | None = None,
        text_encoder: EncodeTexts | None = None,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.transform = transform
        self.precision = precision
        self.name = name
        self.architecture = name.architecture if architecture is None and name is not None else architecture or ""
        self.model = image_encoder if model is None else model
        self.text_encoder = text_encoder
        self.normalize = Normalize(transform)
        self._packed: contextlib.ExitStack | None = None  # holds the weights for a CPU, packed at the first call

    @functools.cached_property
    def width(self) -> int:
        """D, columns of the features.

        Raises:
            ValueError: the image encoder's output is not one vector per image.
        """
        features = self(np.zeros((1, self.transform.size, self.transform.size, 3), np.uint8))
        if features.ndim != 2:
            raise ValueError(f"{self.name}: encoder: found output {tuple(features.shape)}, expected (1, width), pooled")
        return features.shape[1]

    @torch.inference_mode()
    def forward(self, pixels: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Encode frames: (n, S, S, 3) uint8 -> (n, D) float32, on the encoder's device."""
        device = self.normalize.mean.device
        images = self.normalize(to_device(torch.as_tensor(pixels), device))
        with autocast(self.precision, device):
            self._pack_weights(device)
            return self.image_encoder(images).float()

    def _pack_weights(self, device: torch.device) -> None:
        """Prepack the weights once if the encoder is on a CPU; release them when it is not any more."""
        if device.type == "cpu" and self._packed is None:
            self._packed = contextlib.ExitStack()
            self._packed.enter_context(prepacked_linears(self.image_encoder.modules()))
            if self.precision == "bf16":  # separate bfloat16 products take 60% of the fused kernel's time on Zen 4
                self._packed.enter_context(_unfused_attention(self.image_encoder))
        elif device.type != "cpu" and self._packed is not None:
            self._packed.close()
            self._packed = None

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Encode N texts: (N, D) float32, not normalized; only with a text encoder."""
        assert self.text_encoder is not None, f"{self.name} has no text encoder"
        return self.text_encoder(texts).float()

    @functools.cached_property
    def weights_sha256(self) -> str:
        """Hex SHA-256 of the weights, see `hash_weights`."""
        return hash_weights(self.model)

    def describe(self) -> dict[str, Any]:
        """Describe the encoder in plain values: name, architecture, preprocessing, SHA-256 of the weights."""
        return dict(
            name=str(self.name),
            encoder=self.architecture,
            image_size=self.transform.size,
            transform=self.transform.as_dict(),
            weights_sha256=self.weights_sha256,
        )


@contextlib.contextmanager
def _unfused_attention(model: nn.Module) -> Iterator[None]:
    """Use separate operations in place of the fused kernel in the attention of timm's models within the block."""
    layers = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    try:
        for layer in layers:
            vars(layer)["fused_attn"] = False
        yield
    finally:
        for layer in layers:
            vars(layer)["fused_attn"] = True


@dataclasses.dataclass(frozen=True)
class EncoderOptions:
    """Options of frame encoders.

    Attributes:
        precision: autocast precision.
        image_size: S of BLIP's image encoder, see `load_blip_vit`; the others have that of their data configuration.
        position_antialias: see `load_blip_vit`.
        with_text: load the text encoder as well, if the model has one.
        text_tokenizer: folder of the text encoder's tokenizer; "" is the library's, which may need the hub.
    """

    precision: PrecisionName = "fp32"
    image_size: int | None = 224
    position_antialias: bool = True
    with_text: bool = False
    text_tokenizer: str = ""


def load_frame_encoder(name: str | EncoderName, options: EncoderOptions | None = None) -> FrameEncoder:
    """Load a frame encoder.

    Args:
        name: `blip[:PATH_OR_URL]`, `vt_clip[:PATH_OR_URL]`, `timm:MODEL[@WEIGHTS]`, `open_clip:MODEL[@TAG_OR_PATH]` or
            `transformers:MODEL_OR_FOLDER`. WEIGHTS is a file (safetensors or .pth) or a tag on the library's hub;
            without it, the library's default weights.
        options: None is `EncoderOptions()`.
    Returns:
        The encoder in evaluation mode, float32, on the CPU, with the preprocessing of the library's data configuration.
    Raises:
        ValueError: unknown library or model, weights that do not fit, or output that is not one vector per image.
        FileNotFoundError: weights are missing, or the hub is not available.
    """
    name = EncoderName.parse(name) if isinstance(name, str) else name
    if name.library not in FRAME_ENCODERS:
        hint = suggest_name(name.library, FRAME_ENCODERS)
        raise ValueError(f"encoder: found {str(name)!r}, expected {NAME_FORMS}{hint}")
    options = options or EncoderOptions()
    if options.text_tokenizer and not pathlib.Path(options.text_tokenizer).is_dir():
        raise FileNotFoundError(f"{options.text_tokenizer}: text_tokenizer: no such folder")
    encoder = FRAME_ENCODERS[name.library](name, options).eval()
    logger.debug("%s: features of width %d", name, encoder.width)  # raises unless the output is pooled
    return encoder


def blip_frame_encoder(
    path: str | os.PathLike,
    image_size: int = 224,
    precision: PrecisionName = "fp32",
    *,
    position_antialias: bool = True,
) -> FrameEncoder:
    """Load BLIP's image encoder, for whole frames resized to a square; see `load_blip_vit`."""
    options = EncoderOptions(precision, image_size, position_antialias)
    return _load_blip(EncoderName("blip", weights=str(path)), options).eval()


def clip_frame_encoder(
    clip: VTClip, precision: PrecisionName = "fp32", *, name: EncoderName | None = None
) -> FrameEncoder:
    """Wrap VT-CLIP's towers; the image tower encodes the center of frames at its image size."""
    transform = FrameTransform(clip.image_size, crop=True)
    return FrameEncoder(
        clip.clip.visual,
        transform,
        precision,
        name=name,
        architecture="vt_clip",
        model=clip.clip,
        text_encoder=clip.encode_text,
    ).eval()


def _load_blip(name: EncoderName, options: EncoderOptions) -> FrameEncoder:
    vit = load_blip_vit(name.weights, options.image_size, position_antialias=options.position_antialias)
    return FrameEncoder(vit, FrameTransform(vit.patch_embed.img_size[0]), options.precision, name=name)


def _load_vt_clip(name: EncoderName, options: EncoderOptions) -> FrameEncoder:
    return clip_frame_encoder(load_clip(name.weights), options.precision, name=name)


def _load_timm(name: EncoderName, options: EncoderOptions) -> FrameEncoder:
    """Load a model of timm without its classifier, with the preprocessing of `timm.data`."""
    import timm
    import timm.data

    path = _find_weights_file(name)
    model_name = f"{name.model}.{name.weights}" if name.weights and path is None else name.model
    if not model_name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):  # these name weights, too
        if not timm.is_model(model_name):
            _raise_unknown_model(name, timm.list_models() + timm.list_pretrained())
        architecture, _, tag = model_name.partition(".")
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
        if tag and tags and tag not in tags:
            raise ValueError(f"{name}: encoder: weights: found {tag!r}, expected a file or one of {', '.join(tags)}")
    try:
        model = timm.create_model(model_name, pretrained=path is None, num_classes=0)
    except Exception as error:  # of timm, the hub's client or its HTTP library
        raise _cannot_load(name, error) from None
    if path is not None:
        _load_timm_weights(model, name.model, path)
    config = timm.data.resolve_model_data_config(model)
    _, height, width = config["input_size"]
    _require_supported(name, "crop_mode", config["crop_mode"], ("center", "squash"))
    _require_square(name, (height, width))
    transform = FrameTransform(
        size=height,
        crop=config["crop_mode"] == "center",
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        resize_size=int(height / config["crop_pct"]),
    )
    return FrameEncoder(model, transform, options.precision, name=name)


def _load_timm_weights(model: nn.Module, model_name: str, path: str | os.PathLike) -> None:
    """Load a file in timm's layout; its classifier, which the model does not have, is ignored."""
    state = extract_state_dict(read_checkpoint(path), path)
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    prefixes = tuple(f"{part}." for part in ((classifier,) if isinstance(classifier, str) else classifier))
    expected = model.state_dict()
    state = {key: value for key, value in state.items() if key in expected or not key.startswith(prefixes)}
    mismatches = describe_mismatches(state, expected, set(expected))
    if mismatches:
        raise ValueError(f"{path}: encoder: does not fit timm's {model_name}; {mismatches}")
    model.load_state_dict(state)


class _OpenClipImages(nn.Module):
    """The image encoder of an open_clip model, not normalized."""

    def __init__(self, clip: "open_clip.CLIP") -> None:
        super().__init__()
        self.clip = clip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.clip.encode_image(images)


def _load_open_clip(name: EncoderName, options: EncoderOptions) -> FrameEncoder:
    """Load a model of open_clip, with the preprocessing of its weights."""
    import open_clip

    path = _find_weights_file(name)
    tags = open_clip.list_pretrained_tags_by_model(name.model)
    weights = str(path or name.weights or (tags[0] if len(tags) == 1 else ""))
    if not name.model.startswith(("hf-hub:", "local-dir:")):  # these name weights, too
        if name.model not in open_clip.list_models():
            _raise_unknown_model(name, open_clip.list_models())
        if path is None and weights not in tags:
            expected = f"a file or one of {', '.join(tags)}" if tags else "a file"
            raise ValueError(f"{name}: encoder: weights: found {weights!r}, expected {expected}")
    # A weights file may come from any of the tags.
    configs = [open_clip.get_pretrained_cfg(name.model, tag) for tag in (tags if path else [weights])]
    if path is not None:
        read_checkpoint(path)  # raises with one line
    try:
        clip = open_clip.create_model(
            name.model,
            pretrained=weights or None,
            require_pretrained=True,
            force_quick_gelu=_uses_quick_gelu(name, configs),
        )
    except Exception as error:  # of open_clip, the hub's client or its HTTP library
        raise _cannot_load(name, error) from None
    return FrameEncoder(
        _OpenClipImages(clip),
        _open_clip_transform(name, clip.visual.preprocess_cfg, configs),
        options.precision,
        name=name,
        model=clip,
        text_encoder=_open_clip_texts(name, clip, options) if options.with_text else None,
    )


def _uses_quick_gelu(name: EncoderName, configs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all configurations of weights have OpenAI's approximation of GELU."""
    uses = {bool(config.get("quick_gelu")) for config in configs}
    if len(uses) > 1:
        logger.warning(
            "%s: the tags of %s differ in the activation: for weights with QuickGELU, such as OpenAI's, use "
            "open_clip:%s-quickgelu@FILE",
            name,
            name.model,
            name.model,
        )
    return uses == {True}


def _open_clip_transform(
    name: EncoderName, default: Mapping[str, Any], configs: Sequence[Mapping[str, Any]]
) -> FrameTransform:
    """Convert open_clip's preprocessing.

    Args:
        name: name of the encoder.
        default: configuration of the model.
        configs: configurations of its weights, which take precedence if they agree.
    """
    keys = ("mean", "std", "interpolation", "resize_mode")
    variants = [{key: config[key] for key in keys if key in config} for config in configs]
    config = dict(default)
    if variants and all(variant == variants[0] for variant in variants):
        config |= variants[0]
    elif variants:
        logger.warning(
            "%s: the tags of %s differ in preprocessing; the model's default is used for a file", name, name.model
        )
    _require_supported(name, "resize_mode", config["resize_mode"], ("shortest", "squash"))
    height, width = (config["size"],) * 2 if isinstance(config["size"], int) else config["size"]
    _require_square(name, (height, width))
    return FrameTransform(
        size=height,
        crop=config["resize_mode"] == "shortest",
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
    )


def _open_clip_texts(name: EncoderName, clip: "open_clip.CLIP", options: EncoderOptions) -> EncodeTexts | None:
    """Return the text encoder of an open_clip model; None, with a warning, if its tokenizer is not available."""
    import open_clip
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer

    config = (open_clip.get_model_config(name.model) or {}).get("text_cfg", {})
    try:
        if options.text_tokenizer and "hf_tokenizer_name" in config:
            tokenizer = HFTokenizer(
                options.text_tokenizer,
                context_length=config.get("context_length", DEFAULT_CONTEXT_LENGTH),
                tokenizer_mode=config.get("tokenizer_mode"),
                **config.get("tokenizer_kwargs", {}),
            )
        else:
            tokenizer = open_clip.get_tokenizer(name.model)
    except Exception as error:  # of transformers or the hub's client
        if options.text_tokenizer:
            reason = one_line(error)[:300]
            raise ValueError(f"{options.text_tokenizer}: text_tokenizer: not a tokenizer ({reason})") from None
        logger.warning(
            "%s: text features are omitted: the tokenizer %s is not available without the hub; "
            "--text_tokenizer FOLDER names a local one",
            name,
            config.get("hf_tokenizer_name", ""),
        )
        return None

    def encode_texts(texts: Sequence[str]) -> torch.Tensor:
        tokens = tokenizer(list(texts)).to(clip.logit_scale.device)  # (N, L)
        return torch.cat([clip.encode_text(batch) for batch in tokens.split(TEXTS_PER_BATCH)])

    return encode_texts


class _PooledOutput(nn.Module):
    """The pooled output of a vision model of transformers."""

    def __init__(self, vision_model: nn.Module) -> None:
        super().__init__()
        self.vision_model = vision_model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pooled = getattr(self.vision_model(pixel_values=images), "pooler_output", None)
        if pooled is None:
            raise ValueError(
                f"{type(self.vision_model).__name__}: encoder: found no pooler_output, expected (N, width)"
            )
        return pooled


def _load_transformers(name: EncoderName, options: EncoderOptions) -> FrameEncoder:
    """Load a vision model of transformers, or the image tower of a CLIP, with its image processor's preprocessing."""
    from transformers import AutoImageProcessor, AutoModel

    try:
        processor = AutoImageProcessor.from_pretrained(name.weights, trust_remote_code=False)
        model, loading = AutoModel.from_pretrained(
            name.weights, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # of transformers, the hub's client or its HTTP library
        raise _cannot_load(name, error) from None
    vision_model = getattr(model, "vision_model", model)
    prefix = "" if vision_model is model else "vision_model."
    missing = sorted(key for key in loading["missing_keys"] if key.startswith(prefix))
    if missing:  # they would be random
        raise ValueError(
            f"{name}: encoder: found weights without {', '.join(missing[:3])}, expected all of {type(model).__name__}"
        )
    transform = _transformers_transform(name, processor.to_dict())
    return FrameEncoder(
        _PooledOutput(vision_model),
        transform,
        options.precision,
        name=name,
        architecture=f"transformers:{vision_model.config.model_type}",
    )


def _transformers_transform(name: EncoderName, config: Mapping[str, Any]) -> FrameTransform:
    """Convert the settings of an image processor of transformers."""
    from PIL import Image

    for field, expected in dict(do_resize=True, do_rescale=True, rescale_factor=1 / 255, crop_pct=None).items():
        if config.get(field, expected) != expected:
            raise ValueError(f"{name}: encoder: {field}: found {config[field]}, expected {expected} in the processor")
    size, crop_size = config.get("size") or {}, config.get("crop_size") if config.get("do_center_crop") else None
    crop = "shortest_edge" in size
    if not ({"height", "width"} <= size.keys() or (crop and crop_size is not None)):
        expected_size = "height and width, or shortest_edge and a center crop"
        raise ValueError(f"{name}: encoder: size: found {dict(size)}, expected {expected_size} in the processor")
    resized = (size["shortest_edge"],) * 2 if crop else (size["height"], size["width"])
    cropped = resized if crop_size is None else (crop_size["height"], crop_size["width"])
    is_normalized = config.get("do_normalize", True)
    if is_normalized and not (config.get("image_mean") and config.get("image_std")):
        raise ValueError(f"{name}: encoder: image_mean: found no mean and standard deviation in the processor")
    _require_square(name, resized)
    _require_square(name, cropped)
    return FrameTransform(
        size=cropped[0],
        crop=crop,
        interpolation=Image.Resampling(config["resample"]).name.lower(),
        mean=tuple(config["image_mean"]) if is_normalized else (0.0, 0.0, 0.0),
        std=tuple(config["image_std"]) if is_normalized else (1.0, 1.0, 1.0),
        resize_size=resized[0],
    )


def _find_weights_file(name: EncoderName) -> pathlib.Path | None:
    """Local path of the weights; None if they are a tag on the library's hub.

    Raises:
        FileNotFoundError: they have the form of a path, and there is no such file.
    """
    if is_url(name.weights):
        return pathlib.Path(resolve_file(name.weights))
    path = pathlib.Path(name.weights)
    if name.weights and path.is_file():
        return path
    if path.parent != pathlib.Path(".") or path.suffix in WEIGHTS_SUFFIXES:
        raise FileNotFoundError(f"{name.weights}: encoder: no such file")
    return None


def _raise_unknown_model(name: EncoderName, known: Sequence[str]) -> NoReturn:
    hint = suggest_name(name.model, known)
    raise ValueError(f"encoder: found {str(name)!r}, expected a model of {name.library}{hint}")


def _cannot_load(name: EncoderName, error: Exception) -> Exception:
    """The error of a library as one line that names the remedy."""
    local = f"{name.library}:FOLDER" if name.library == "transformers" else f"{name.library}:{name.model}@FILE"
    return FileNotFoundError(
        f"{name}: encoder: cannot be loaded ({one_line(error)[:300]}); without the hub, --encoder {local} names "
        "local weights"
    )


def _require_supported(name: EncoderName, field: str, value: str, supported: Sequence[str]) -> None:
    if value not in supported:
        raise ValueError(f"{name}: encoder: {field}: found {value!r}, expected {' or '.join(supported)}")


def _require_square(name: EncoderName, size: tuple[int, int]) -> None:
    if size[0] != size[1]:
        raise ValueError(f"{name}: encoder: found frames of {size[0]} x {size[1]} pixels, expected a square")


# Library -> loader.
FRAME_ENCODERS: dict[str, Callable[[EncoderName, EncoderOptions], FrameEncoder]] = {
    "blip": _load_blip,
    "vt_clip": _load_vt_clip,
    "timm": _load_timm,
    "open_clip": _load_open_clip,
    "transformers": _load_transformers,
}
