import copy

import pytest
import torch
import torch.nn.functional as F

from models.vtsum_blip import ARCHITECTURES, TASKS, v2vt_sum
from models.weights import load_weights
from tests.conftest import ROOT
from tests.helpers.padded import run_padded
from tests.helpers.processes import run

CAPTIONS = [
    "a video of a red circle bounces",
    "a video of a red circle bounces then a blue square spins",
    "a video of a",
]


def test_state_dict_has_the_released_layout(golden, bert_vocabulary):
    with torch.device("meta"):
        model = v2vt_sum(
            "vtsum_blip_tt_ca", med_config=str(ROOT / "configs/med_config.json"), tokenizer=str(bert_vocabulary)
        )
    released = {name: tuple(shape) for name, shape in golden("state_dict_keys_full.json").items()}
    del released["text_decoder.bert.embeddings.position_ids"]  # a constant that transformers 4.15 stored
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == released


def test_stale_position_ids_are_accepted(mini_model):
    model = mini_model()
    state = model.state_dict() | {"text_decoder.bert.embeddings.position_ids": torch.arange(512)[None]}
    model.load_state_dict(state)


@pytest.mark.parametrize("version", ARCHITECTURES)
@pytest.mark.parametrize("loss_type", ["cross_entropy", "l2"])
@pytest.mark.parametrize("smoothing_scope", ["published", "scored"])
def test_every_parameter_gets_a_gradient(mini_model, random_videos, version, loss_type, smoothing_scope):
    model = mini_model(version, loss_type=loss_type, smoothing_scope=smoothing_scope, tt_depth=2, kernel_size=3)
    embeddings, mask, labels = random_videos([12, 7, 3])
    sum(model(embeddings, mask, labels, CAPTIONS)).backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert not without


@pytest.mark.parametrize("version", ARCHITECTURES)
@torch.no_grad()
def test_padding_does_not_change_results(mini_model, random_videos, version):
    model = mini_model(version).eval()
    embeddings, mask, labels = random_videos([12, 7])
    padded = F.pad(embeddings, (0, 0, 0, 9), value=3.0), F.pad(mask, (0, 9))
    captions, saliency = model.generate(embeddings, mask, max_length=12)
    captions_padded, saliency_padded = model.generate(*padded, max_length=12)
    assert captions == captions_padded
    actual, expected = saliency_padded.view(2, 21)[:, :12], saliency.view(2, 12)
    torch.testing.assert_close(actual * mask, expected * mask, rtol=1e-5, atol=1e-5)
    loss_tsum, loss_vsum = model(embeddings, mask, labels, CAPTIONS[:2])
    padded_tsum, padded_vsum = model(*padded, F.pad(labels, (0, 9)), CAPTIONS[:2])
    torch.testing.assert_close(padded_tsum, loss_tsum, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(padded_vsum, loss_vsum * 12 / 21, rtol=1e-5, atol=1e-6)  # QUIRK-1


@torch.no_grad()
def test_batch_equals_single_videos(mini_model, random_videos):
    model = mini_model().eval()
    lengths = [15, 1, 8, 11]
    embeddings, mask, _ = random_videos(lengths)
    captions, saliency = model.generate(embeddings, mask, max_length=15)
    for i, length in enumerate(lengths):
        single = model.generate(embeddings[i : i + 1, :length], mask[i : i + 1, :length], max_length=15)
        assert single[0] == [captions[i]]
        torch.testing.assert_close(saliency.view(4, 15)[i, :length], single[1], rtol=1e-5, atol=1e-5)


def test_text_list_and_tensor_captions_have_equal_losses(mini_model, random_videos):
    model = mini_model().eval()
    videos = random_videos([5, 5, 4])
    tokenizer = model.text_decoder.tokenizer
    ids = [tokenizer.encode(caption) for caption in CAPTIONS]
    losses = [model(*videos, captions)[0].item() for captions in (CAPTIONS, ids, tokenizer.pad(ids))]
    assert losses[0] == losses[1] == losses[2]


@torch.no_grad()
def test_position_table_is_interpolated_beyond_512_frames(mini_model):
    """QUIRK-5: bicubic interpolation to the batch's length, against an explicit one-dimensional cubic convolution."""
    model = mini_model()
    table = model.position_embeddings.weight.mul_(0.02)  # float32 rounds the coordinates of the interpolation
    assert torch.equal(model.position_table(512), table) and torch.equal(model.position_table(3), table[:3])
    T = 700
    # Cubic convolution with a = -0.75 at the half-pixel centers.
    centers = (torch.arange(T) + 0.5) * 512 / T - 0.5
    taps = centers.floor().long()[:, None] + torch.arange(-1, 3)
    distance = (centers[:, None] - taps).abs()
    near = 1.25 * distance**3 - 2.25 * distance**2 + 1
    far = -0.75 * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    weights = torch.where(distance <= 1, near, far)
    expected = (weights[..., None] * table[taps.clamp(0, 511)]).sum(1)
    torch.testing.assert_close(model.position_table(T), expected, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_videos_longer_than_512_frames(mini_model, random_videos):
    model = mini_model().eval()
    embeddings, mask, labels = random_videos([600, 520])
    captions, saliency = model.generate(embeddings, mask, max_length=8)
    assert len(captions) == 2 and saliency.shape == (1200,) and torch.isfinite(saliency).all()
    assert all(torch.isfinite(loss) for loss in model(embeddings, mask, labels, CAPTIONS[:2]))


@torch.no_grad()
def test_position_table_is_added_twice_and_context_reaches_the_decoder(mini_model, random_videos):
    """QUIRK-3 and QUIRK-8."""
    model = mini_model().eval()
    embeddings, mask, _ = random_videos([9])
    table = model.position_embeddings.weight[:9]
    expected = run_padded(model.local_atten_head, run_padded(model.tt, embeddings + table, mask) + table, mask)
    torch.testing.assert_close(model.encode(embeddings, mask)[0], expected)
    without_aggregation = copy.deepcopy(model)
    without_aggregation.local_atten_head = None
    videos = (embeddings, mask, torch.zeros(1, 10, 9), CAPTIONS[:1])
    assert without_aggregation(*videos)[0] != model(*videos)[0]


@torch.no_grad()
@pytest.mark.parametrize("version", ["vtsum_blip_tt", "vtsum_blip_tt_ca"])
def test_without_temporal_transformer_the_position_table_is_added_once(mini_model, random_videos, version, tmp_path):
    """The paper's base model: frames plus position embeddings are inputs of the heads or the context aggregation."""
    model = mini_model(version, tt_depth=0).eval()
    assert not any(name.startswith("tt.") for name in model.state_dict())
    embeddings, mask, labels = random_videos([9, 4])
    table = model.position_embeddings.weight[:9]
    expected = (embeddings + table) * mask[..., None]
    if version == "vtsum_blip_tt_ca":
        expected = run_padded(model.local_atten_head, expected, mask)
    torch.testing.assert_close(model.encode(embeddings, mask)[0], expected)
    assert all(torch.isfinite(loss) for loss in model(embeddings, mask, labels, CAPTIONS[:2]))
    model.compile_layers()
    torch.save(mini_model(version).state_dict(), tmp_path / "tt.pth")
    with pytest.raises(ValueError, match=r"does not fit the model; extra: tt\."):
        load_weights(model, tmp_path / "tt.pth")


@pytest.mark.parametrize("layers", [0, 1])
def test_activation_recomputation_does_not_change_gradients(mini_model, random_videos, layers):
    videos = random_videos([12, 7, 3])
    gradients = []
    for recompute in (False, True):
        model = mini_model(tt_depth=2, vit_grad_ckpt=recompute, vit_ckpt_layer=layers).train()
        torch.manual_seed(1)  # dropout
        sum(model(*videos, CAPTIONS)).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    recomputed = {0: [True, True], 1: [False, True]}[layers]
    assert model.tt.recompute == model.text_decoder.recompute == recomputed


@pytest.mark.parametrize("task", TASKS)
def test_a_task_builds_only_its_heads(mini_model, random_videos, task):
    model = mini_model(task=task)
    names = {name.split(".")[0] for name in model.state_dict()}
    assert ("vsum_head" in names) == (task != "v2t")
    assert ("text_decoder" in names) == (task != "v2v")
    videos = random_videos([6, 4, 2])
    loss_tsum, loss_vsum = model(*videos, None if task == "v2v" else CAPTIONS)
    assert (loss_tsum is None) == (task == "v2v") and (loss_vsum is None) == (task == "v2t")
    captions, saliency = model.generate(*videos[:2], max_length=6)
    assert (captions is None) == (task == "v2v") and (saliency is None) == (task == "v2t")


def test_large_features_are_1024_wide(mini_model, random_videos):
    model = mini_model(vit="large")
    assert model.position_embeddings.weight.shape == (512, 1024)
    assert model.tt.blocks[0].attn.qkv.weight.shape == model.local_atten_head.attn.qkv.weight.shape == (3072, 1024)
    assert model.text_decoder.bert.encoder.layer[0].crossattention.self.key.weight.shape == (128, 1024)
    assert all(torch.isfinite(loss) for loss in model(*random_videos([6, 4, 2], width=1024), CAPTIONS))


def test_training_captions_are_truncated_with_end_token(mini_model):
    tokenizer = mini_model().text_decoder.tokenizer
    ids = tokenizer.encode("a video of " + "red " * 200, 128)
    assert len(ids) == 128 and ids[0] == tokenizer.decoder_id and ids[-1] == tokenizer.end_id
    assert len(tokenizer.encode("a video of red", 128)) == 6


@pytest.mark.parametrize(
    ("version", "options", "message"),
    [
        ("vtsum_blip", {}, "version: found 'vtsum_blip', expected one of vtsum_blip_tt, vtsum_blip_tt_ca"),
        ("vtsum_blip_tt", {"vit": "huge"}, "vit: found 'huge'"),
        ("vtsum_blip_tt", {"task": "t2v"}, "task: found 't2v'"),
        ("vtsum_blip_tt", {"loss_type": "bce"}, "loss_type: found 'bce'"),
        ("vtsum_blip_tt", {"tt_depth": -1}, "tt_depth: found -1, expected an integer, at least 0"),
        ("vtsum_blip_tt_ca", {"kernel_size": 2.5}, "kernel_size: found 2.5"),
        ("vtsum_blip_tt", {"smoothing_scope": "all"}, "smoothing_scope: found 'all'"),
        (
            "vtsum_blip_tt",
            {"max_text_length": 600},
            r"max_text_length: found 600, expected 5 \(prompt and one token\) to 512",
        ),
    ],
)
def test_invalid_arguments_raise(mini_model, version, options, message):
    with pytest.raises(ValueError, match=message):
        mini_model(version, **options)


def test_generating_uses_no_dropout_and_keeps_the_mode(mini_model, random_videos):
    model = mini_model().train()
    videos = random_videos([9, 5])[:2]
    actual = model.generate(*videos, max_length=12)
    assert model.training
    expected = model.eval().generate(*videos, max_length=12)
    assert actual[0] == expected[0] and torch.equal(actual[1], expected[1])


def test_invalid_inputs_raise(mini_model, random_videos):
    model, (embeddings, mask, labels) = mini_model(), random_videos([9, 5])
    with pytest.raises(ValueError, match=r"found shapes \(2, 9, 768\) and \(1, 9\), expected \(B, T, D\) and \(B, T\)"):
        model.generate(embeddings, mask[:1])
    with pytest.raises(ValueError, match="tsum_labels: found 3 captions, expected 2"):
        model(embeddings, mask, labels, CAPTIONS)
    with pytest.raises(ValueError, match="tsum_labels: found caption 1 of 2 tokens, expected more than the 4 of the"):
        model(embeddings, mask, labels, [CAPTIONS[0], ""])
    with pytest.raises(ValueError, match="video_mask: found an empty sequence, or padding before a real element"):
        model.generate(embeddings, mask.flip(1))
    with pytest.raises(ValueError, match="num_beams: found 0, expected at least 1"):
        model.generate(embeddings, mask, num_beams=0)


def test_too_small_vocab_size_raises(bert_vocabulary):
    config = str(ROOT / "configs/med_config_mini.json")
    with pytest.raises(ValueError, match="vocab_size: found 256, expected at least the 30524 tokens"):
        v2vt_sum("vtsum_blip_tt", med_config=config, tokenizer=str(bert_vocabulary))


def test_import_does_not_load_slow_packages():
    """Packages that take a second or more to import are imported where they are used."""
    code = "import sys, models.vtsum_blip, models.vt_clip, models.frame_encoders; print(*sys.modules)"
    status, output = run(["python", "-c", code], ROOT)
    assert status == 0 and not {"torch._dynamo", "timm", "transformers", "open_clip"} & set(output.split())


def test_even_kernel_size_is_a_warning(mini_model, caplog):
    models = {kernel_size: mini_model("vtsum_blip_tt_ca", kernel_size=kernel_size) for kernel_size in (3, 4, 5)}
    (message,) = caplog.messages
    assert message.startswith("kernel_size: found 4, which equals 5: the window has 2 frames to each side")
    radius = {kernel_size: model.local_atten_head.attn.radius for kernel_size, model in models.items()}
    assert radius == {3: 1, 4: 2, 5: 2}
    caplog.clear()
    mini_model("vtsum_blip_tt", kernel_size=4)  # it has no context aggregation
    assert not caplog.messages
