import pytest
import torch
from transformers import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from benchmarks.peers import pass_frame_mask
from models.med_config import TextDecoderConfig
from models.text_decoder import TextDecoder
from tests.conftest import GOLDEN
from tests.helpers.padded import compute_caption_states

SIZES = (
    '{"hidden_size": %s, "num_hidden_layers": 2, "intermediate_size": 9, "vocab_size": 9, "num_attention_heads": %s}'
)


@pytest.fixture
def decoders():
    """The project's decoder and that of transformers with the same weights."""
    torch.manual_seed(0)
    config = TextDecoderConfig.from_json(GOLDEN / "med_small.json")
    decoder = TextDecoder(config.model_copy(update=dict(vocab_size=500, num_hidden_layers=3)), encoder_width=96).eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    reference = BlipTextLMHeadModel(
        BlipTextConfig(
            vocab_size=500,
            hidden_size=config.hidden_size,
            encoder_hidden_size=96,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=3,
            num_attention_heads=config.num_attention_heads,
            max_position_embeddings=config.max_position_embeddings,
            layer_norm_eps=config.layer_norm_eps,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            is_decoder=True,
        )
    ).eval()
    for layer in reference.bert.encoder.layer:
        layer.crossattention.self.register_forward_pre_hook(pass_frame_mask, with_kwargs=True)
    missing, unexpected = reference.load_state_dict(decoder.state_dict(), strict=False)
    assert not unexpected and all(name.endswith("position_ids") for name in missing)
    return decoder, reference


def test_logits_equal_transformers(decoders):
    decoder, reference = decoders
    ids = torch.randint(5, 500, (3, 17))
    attention = torch.arange(17) < torch.tensor([17, 9, 4])[:, None]
    frames = torch.randn(3, 23, 96)
    frame_mask = torch.arange(23) < torch.tensor([23, 11, 2])[:, None]
    expected = reference(
        input_ids=ids,
        attention_mask=attention.long(),
        encoder_hidden_states=frames,
        encoder_attention_mask=frame_mask.long(),
        return_dict=True,
        is_decoder=True,
    ).logits
    logits = decoder.logits(compute_caption_states(decoder, ids, attention, frames, frame_mask))
    torch.testing.assert_close(logits[attention], expected[attention], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_cached_steps_equal_full_captions(decoders):
    decoder, _ = decoders
    K, B, L = 3, 2, 9
    ids = torch.randint(5, 500, (B * K, L))
    ids[:, :4] = ids[0, :4]
    frames = torch.randn(B, 12, 96)
    frame_mask = torch.arange(12) < torch.tensor([12, 5])[:, None]
    full_attention = torch.ones(B * K, L, dtype=torch.bool)
    beams = frames.repeat_interleave(K, 0), frame_mask.repeat_interleave(K, 0)
    expected = decoder.logits(compute_caption_states(decoder, ids, full_attention, *beams)).view(B, K, L, -1)
    cache, logits = decoder.start(ids[0, :4].tolist(), frames, frame_mask, num_beams=K)
    torch.testing.assert_close(logits, expected[:, 0, 3], rtol=1e-4, atol=1e-4)
    for position in range(4, L):
        logits = decoder.step(ids[:, position].view(B, K), cache)
        torch.testing.assert_close(logits, expected[:, :, position], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_cache_reorders_beams_and_drops_videos(decoders):
    decoder, _ = decoders
    B, K = 3, 4
    ids = torch.randint(5, 500, (B, K, 6))
    ids[:, :, 0] = 7
    frames, frame_mask = torch.randn(B, 7, 96), torch.arange(7) < torch.tensor([7, 3, 5])[:, None]
    parents = torch.tensor([[2, 2, 0, 3], [0, 1, 2, 3], [3, 3, 3, 3]])
    cache, _ = decoder.start([7], frames, frame_mask, num_beams=K)
    for position in range(1, 4):
        decoder.step(ids[:, :, position], cache)
    cache.reorder_beams(parents)
    decoder.step(ids[:, :, 4], cache)
    cache.select_videos(torch.tensor([0, 2]))
    logits = decoder.step(ids[[0, 2], :, 5], cache)
    full_ids = torch.cat([ids[:, :, :4].gather(1, parents[..., None].expand(-1, -1, 4)), ids[:, :, 4:]], 2)[[0, 2]]
    beams = (tensor[[0, 2]].repeat_interleave(K, 0) for tensor in (frames, frame_mask))
    states = compute_caption_states(decoder, full_ids.flatten(0, 1), torch.ones(8, 6, dtype=torch.bool), *beams)
    expected = decoder.logits(states[:, -1]).view(2, K, -1)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "found a list of 0, expected an object"),
        ('{"hidden_size": 128}', "num_hidden_layers: missing"),
        (SIZES % ("0", "2"), "hidden_size: found 0, expected at least 1"),
        (SIZES % ("128.5", "2"), "hidden_size: found 128.5, expected an integer"),
        (SIZES % ("1" + "0" * 400, "2"), "hidden_size: found 1000"),
        (
            SIZES % ("128", '2, "hidden_dropout_prob": 2.0'),
            "hidden_dropout_prob: found 2.0, expected at most 1",
        ),
        (SIZES % ("128", '2, "pad_token_id": 9'), "pad_token_id: found 9, expected less than vocab_size"),
        ("[" * 100_000, "not valid JSON"),
        (SIZES % ("128", "3"), "hidden_size: found 128, expected a multiple of num_attention_heads"),
        (SIZES % ("128", '2, "hidden_act": "relu"'), "hidden_act: found 'relu', expected one of gelu"),
    ],
)
def test_invalid_med_config_raises(tmp_path, text, message):
    path = tmp_path / "med.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        TextDecoderConfig.from_json(path)
    assert str(path) in str(caught.value)
    with pytest.raises(FileNotFoundError, match="none.json"):
        TextDecoderConfig.from_json(tmp_path / "none.json")
