"""Frame encoders by name: width, preprocessing and features are those of the library called directly."""

import json

import numpy as np
import open_clip
import pytest
import safetensors.torch
import timm
import timm.data
import torch
import transformers
from open_clip.tokenizer import HFTokenizer
from PIL import Image

from data.video.preprocessing import preprocess
from models.frame_encoders import (
    FRAME_ENCODERS,
    EncoderOptions,
    blip_frame_encoder,
    load_frame_encoder,
)
from models.vt_clip import load_vt_clip
from tests.helpers.encoders import build_open_clip_folder
from tests.helpers.tokenizers import save_word_tokenizer
from utils.encoder_names import DEFAULT_WEIGHTS, EncoderName

SMALL = dict(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16)
SMALL_TEXT = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=50)
TEXTS = ["a red dog runs", "two birds"]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """The hub's client reads these variables when it is imported; `huggingface_hub.constants` is read at each call."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 213, 3), np.uint8))


def assert_equal_to_library(encoder, image, transform, forward):
    """Compare pixels and features with those of a library's transform and model, and the width with the output's."""
    pixels = preprocess(image, encoder.transform)[None].copy()  # (1, S, S, 3)
    expected = transform(image)[None]  # (1, 3, S, S)
    assert torch.equal(encoder.normalize(torch.as_tensor(pixels)), expected)
    with torch.no_grad():
        features = forward(expected)
    torch.testing.assert_close(encoder(pixels), features, rtol=1e-5, atol=1e-5)
    assert features.shape == (1, encoder.width) and features.std() > 0


def build_timm_model(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, **options).eval()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_timm(image, tmp_path, suffix):
    """The file of a classifier, as on the hub: the features are those before the classifier."""
    name = "test_vit.r160_in1k"
    model, path = build_timm_model(name), tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(model.state_dict(), path)
    else:
        safetensors.torch.save_file(model.state_dict(), path)
    model.reset_classifier(0)
    encoder = load_frame_encoder(f"timm:{name}@{path}")
    config = timm.data.resolve_model_data_config(model)
    assert config["crop_pct"] < 1  # frames are resized to more than the input's size
    assert_equal_to_library(encoder, image, timm.data.create_transform(**config), model)
    description = encoder.describe()
    assert description["encoder"] == "timm:test_vit" and json.loads(json.dumps(description)) == description


@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
def test_open_clip(image, tmp_path, resize_mode):
    preprocessing = dict(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), interpolation="bilinear", resize_mode=resize_mode)
    model = build_open_clip_folder(tmp_path / "clip", preprocessing)
    encoder = load_frame_encoder(f"open_clip:local-dir:{tmp_path / 'clip'}", EncoderOptions(with_text=True))
    transform = open_clip.image_transform(32, is_train=False, **preprocessing)
    assert_equal_to_library(encoder, image, transform, model.encode_image)
    tokens = open_clip.SimpleTokenizer(context_length=16)(TEXTS)
    torch.testing.assert_close(encoder.encode_text(TEXTS), model.encode_text(tokens))


@pytest.fixture
def clip_with_hub_tokenizer(tmp_path):
    """Name of a tiny open_clip model with weights in a file, whose tokenizer is on the hub."""
    config = dict(
        embed_dim=64,
        vision_cfg=dict(image_size=32, layers=1, width=64, patch_size=16, head_width=32),
        text_cfg=dict(context_length=8, vocab_size=100, width=64, heads=2, layers=1, hf_tokenizer_name="none/none"),
    )
    (tmp_path / "tiny-hub-tokenizer.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(0)
    torch.save(open_clip.create_model("tiny-hub-tokenizer").state_dict(), tmp_path / "weights.pth")
    return f"open_clip:tiny-hub-tokenizer@{tmp_path / 'weights.pth'}"


def test_text_without_tokenizer_is_omitted(clip_with_hub_tokenizer, caplog):
    encoder = load_frame_encoder(clip_with_hub_tokenizer, EncoderOptions(with_text=True))
    assert encoder.text_encoder is None and encoder.width == 64
    (message,) = [record.getMessage() for record in caplog.records if "text features" in record.getMessage()]
    assert "the tokenizer none/none is not available without the hub; --text_tokenizer FOLDER names" in message


def test_text_tokenizer_of_a_folder(clip_with_hub_tokenizer, tmp_path):
    folder = save_word_tokenizer(tmp_path / "tokenizer", TEXTS)
    options = EncoderOptions(with_text=True, text_tokenizer=str(folder))
    encoder = load_frame_encoder(clip_with_hub_tokenizer, options)
    tokens = HFTokenizer(str(folder), context_length=8)(TEXTS)
    assert len(set(tokens.flatten().tolist())) > 5
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode_text(TEXTS), encoder.model.encode_text(tokens))
    with pytest.raises(ValueError, match="empty: text_tokenizer: not a tokenizer"):
        (tmp_path / "empty").mkdir()
        options = EncoderOptions(with_text=True, text_tokenizer=str(tmp_path / "empty"))
        load_frame_encoder(clip_with_hub_tokenizer, options)
    with pytest.raises(FileNotFoundError, match="none: text_tokenizer: no such folder"):
        load_frame_encoder(clip_with_hub_tokenizer, EncoderOptions(with_text=True, text_tokenizer="none"))


def build_transformers_models():
    """Tiny models with image processors: two CLIPs, of which the image tower is used, and a vision model."""
    vision = SMALL | dict(intermediate_size=64)
    siglip = transformers.SiglipConfig(text_config=SMALL_TEXT, vision_config=vision)
    special = dict(bos_token_id=1, eos_token_id=2)
    clip = transformers.CLIPConfig(text_config=SMALL_TEXT | special, vision_config=vision)
    square, cropped = dict(height=32, width=32), dict(shortest_edge=36)
    return {
        "siglip_vision_model": (transformers.SiglipModel(siglip), transformers.SiglipImageProcessor(size=square)),
        "clip_vision_model": (
            transformers.CLIPModel(clip),
            transformers.CLIPImageProcessor(size=cropped, crop_size=square),
        ),
        "dinov2": (
            transformers.Dinov2Model(transformers.Dinov2Config(**SMALL)),
            transformers.BitImageProcessor(size=cropped, crop_size=square),
        ),
    }


@pytest.mark.parametrize("kind", ["siglip_vision_model", "clip_vision_model", "dinov2"])
def test_transformers(tmp_path, kind):
    torch.manual_seed(0)
    model, processor = build_transformers_models()[kind]
    model.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    encoder = load_frame_encoder(f"transformers:{tmp_path}")
    tower = model if kind == "dinov2" else model.vision_model
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8))
    pixels = preprocess(image, encoder.transform)[None].copy()
    images = encoder.normalize(torch.as_tensor(pixels))
    expected = processor(images=image, return_tensors="pt")["pixel_values"]
    # The processor resizes tensors, whose rounding differs from Pillow's by up to a level of a pixel.
    assert (images - expected).abs().max() <= 1.01 / 255 / min(encoder.transform.std)
    with torch.no_grad():
        features = tower(pixel_values=images).pooler_output
    torch.testing.assert_close(encoder(pixels), features)
    assert encoder.width == 64 and encoder.describe()["encoder"] == f"transformers:{kind}"


def test_transformers_without_trained_pooler_raises(tmp_path):
    """A classifier of the Vision Transformer has no pooler: its weights would be random."""
    config = transformers.ViTConfig(**SMALL, intermediate_size=64)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size=dict(height=32, width=32)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="encoder: found weights without pooler.dense.bias, pooler.dense.weight, exp"):
        load_frame_encoder(f"transformers:{tmp_path}")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (dict(image_mean=None), "encoder: image_mean: found no mean and standard deviation in the processor"),
        (dict(do_rescale=False), "encoder: do_rescale: found False, expected True in the processor"),
        (dict(size=dict(shortest_edge=36), do_center_crop=False), r"encoder: size: found {'shortest_edge': 36}, expec"),
        (dict(size=dict(height=32, width=48)), "encoder: found frames of 32 x 48 pixels, expected a square"),
    ],
)
def test_unsupported_image_processors_raise(tmp_path, change, line):
    transformers.Dinov2Model(transformers.Dinov2Config(**SMALL)).save_pretrained(tmp_path)
    processor = transformers.BitImageProcessor(size=dict(height=32, width=32), do_center_crop=False)
    processor.save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=line):
        load_frame_encoder(f"transformers:{tmp_path}")


def test_open_clip_folder_without_weights_raises(tmp_path):
    build_open_clip_folder(tmp_path / "clip", {})
    (tmp_path / "clip/open_clip_pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match="clip: encoder: cannot be loaded"):
        load_frame_encoder(f"open_clip:local-dir:{tmp_path / 'clip'}")


def test_blip_and_vt_clip(mini_videos):
    blip, vt_clip = mini_videos / "frame_encoder.pth", mini_videos / "vt_clip.pth"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    encoder = load_frame_encoder(f"blip:{blip}", EncoderOptions(image_size=64))
    assert torch.equal(encoder(pixels), blip_frame_encoder(blip, 64)(pixels)) and encoder.width == 768
    encoder, clip = load_frame_encoder(f"vt_clip:{vt_clip}"), load_vt_clip(vt_clip)
    assert encoder.width == clip.width == 512
    with torch.no_grad():
        assert torch.equal(encoder.encode_text(TEXTS), clip.encode_text(TEXTS))


@pytest.mark.parametrize(
    ("text", "expected", "folder"),
    [
        ("blip", EncoderName("blip", weights=DEFAULT_WEIGHTS["blip"]), "blip"),
        ("blip:https://x.org/a@b.pth", EncoderName("blip", weights="https://x.org/a@b.pth"), "blip"),
        ("vt_clip:c.pth", EncoderName("vt_clip", weights="c.pth"), "vt_clipscore"),
        ("timm:vit_x.tag@w.pth", EncoderName("timm", "vit_x.tag", "w.pth"), "vit_x.tag"),
        ("open_clip:hf-hub:timm/ViT", EncoderName("open_clip", "hf-hub:timm/ViT"), "hf-hub_timm_ViT"),
        ("transformers:/models/dino", EncoderName("transformers", weights="/models/dino"), "dino"),
    ],
)
def test_names(text, expected, folder):
    name = EncoderName.parse(text)
    assert name == expected and name.folder == folder
    assert EncoderName.parse(str(name)) == name


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tim:vit", "encoder: found 'tim:vit', expected blip[:PATH_OR_URL], vt_clip[:PATH_OR_URL], timm:MODEL"),
        ("timm:", "encoder: found 'timm:', expected blip"),
        ("timm:vit_base_patch16_dinov", "encoder: found 'timm:vit_base_patch16_dinov', expected a model of timm; did"),
        ("open_clip:ViT-B-99", "encoder: found 'open_clip:ViT-B-99', expected a model of open_clip; did you mean ViT-"),
        ("open_clip:ViT-B-32", "open_clip:ViT-B-32: encoder: weights: found '', expected a file or one of openai, "),
        ("open_clip:ViT-B-32@opena", "open_clip:ViT-B-32@opena: encoder: weights: found 'opena', expected a file or"),
        (
            "timm:test_vit@imagenet",
            "timm:test_vit@imagenet: encoder: weights: found 'imagenet', expected a file or one of",
        ),
        ("timm:test_vit@no/weights.pth", "no/weights.pth: encoder: no such file"),
        ("timm:test_vit.r160_in1k", "timm:test_vit.r160_in1k: encoder: cannot be loaded ("),
        ("transformers:no/folder", "transformers:no/folder: encoder: cannot be loaded ("),
        ("open_clip:RN50@cc12m", "open_clip:RN50@cc12m: encoder: cannot be loaded ("),
    ],
)
def test_invalid_names_raise(name, line):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load_frame_encoder(name)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)
    if "cannot be loaded" in line:
        library = name.split(":")[0]
        assert f"; without the hub, --encoder {library}:" in str(caught.value)


def test_weights_of_another_model_raise(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(build_timm_model("test_vit2").state_dict(), path)
    with pytest.raises(ValueError, match="weights.pth: encoder: does not fit timm's test_vit; (missing|extra|wrong)"):
        load_frame_encoder(f"timm:test_vit@{path}")


def test_weights_with_batch_normalization(tmp_path):
    """Its counters are integers."""
    path = tmp_path / "weights.pth"
    torch.save(build_timm_model("resnet10t").state_dict(), path)
    assert load_frame_encoder(f"timm:resnet10t@{path}").width == 512


def test_unpooled_output_raises(tmp_path, monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **options: create(*args, **options, global_pool=""))
    path = tmp_path / "weights.pth"
    torch.save(build_timm_model("test_vit", num_classes=0).state_dict(), path)
    with pytest.raises(ValueError, match=r"encoder: found output \(1, \d+, 64\), expected \(1, width\), pooled"):
        load_frame_encoder(f"timm:test_vit@{path}")


def test_every_library_has_a_form():
    assert set(FRAME_ENCODERS) == {"blip", "vt_clip", "timm", "open_clip", "transformers"}


# The names that docs/encoders.md recommends, at their real sizes, with random weights.


@pytest.mark.soak
@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch16_siglip_224.v2_webli",
        "vit_base_patch16_dinov3.lvd1689m",
        "vit_pe_core_base_patch16_224.fb",
    ],
)
def test_recommended_timm_models(image, tmp_path, name):
    model = build_timm_model(name, num_classes=0)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    encoder = load_frame_encoder(f"timm:{name}@{tmp_path / 'weights.pth'}")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    assert_equal_to_library(encoder, image, transform, model)
    assert encoder.width == model.num_features == 768


@pytest.mark.soak
@pytest.mark.parametrize(("name", "width"), [("ViT-B-16-SigLIP2", 768), ("MobileCLIP2-B", 512)])
def test_recommended_open_clip_models(image, tmp_path, name, width):
    torch.manual_seed(0)
    model = open_clip.create_model(name).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    folder = save_word_tokenizer(tmp_path / "tokenizer", TEXTS)  # MobileCLIP2-B's own is part of open_clip
    options = EncoderOptions(with_text=True, text_tokenizer=str(folder))
    encoder = load_frame_encoder(f"open_clip:{name}@{tmp_path / 'weights.pth'}", options)
    (tag,) = open_clip.list_pretrained_tags_by_model(name)
    config = open_clip.get_pretrained_cfg(name, tag)
    preprocessing = {key: config[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    transform = open_clip.image_transform(224, is_train=False, **preprocessing)
    assert_equal_to_library(encoder, image, transform, model.encode_image)
    assert encoder.width == width
    if name == "MobileCLIP2-B":
        tokenizer = open_clip.get_tokenizer(name)
    else:
        tokenizer = HFTokenizer(str(folder), context_length=64, clean="canonicalize")
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode_text(TEXTS), model.encode_text(tokenizer(TEXTS)))
