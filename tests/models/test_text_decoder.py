import dataclasses

import pytest
import torch
from transformers import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from models.med_config import TextDecoderConfig
from models.text_decoder import TextDecoder
from tests.conftest import GOLDEN

SIZES = (
    '{"hidden_size": %s, "num_hidden_layers": 2, "intermediate_size": 9, "vocab_size": 9, "num_attention_heads": %s}'
)


@pytest.fixture
def pair():
    """Our decoder and transformers' with the same weights."""
    torch.manual_seed(0)
    config = TextDecoderConfig.from_json(GOLDEN / "med_small.json")
    ours = TextDecoder(dataclasses.replace(config, vocab_size=500, num_hidden_layers=3), encoder_width=96).eval()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    theirs = BlipTextLMHeadModel(
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
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected and all(name.endswith("position_ids") for name in missing)
    return ours, theirs


def test_equals_transformers(pair):
    ours, theirs = pair
    ids = torch.randint(5, 500, (3, 17))
    attention = torch.arange(17) < torch.tensor([17, 9, 4])[:, None]
    frames = torch.randn(3, 23, 96)
    seen = torch.ones(3, 23, dtype=torch.bool)
    expected = theirs(
        input_ids=ids,
        attention_mask=attention.long(),
        encoder_hidden_states=frames,
        encoder_attention_mask=seen.long(),
        return_dict=True,
        is_decoder=True,
    ).logits
    found = ours.logits(ours(ids, attention, frames, seen))
    torch.testing.assert_close(found[attention], expected[attention], rtol=1e-4, atol=1e-4)


def test_cached_steps_equal_whole_captions(pair):
    ours, _ = pair
    K, B, L = 3, 2, 9
    ids = torch.randint(5, 500, (B * K, L))
    ids[:, :4] = ids[0, :4]
    frames = torch.randn(B, 12, 96)
    seen = torch.arange(12) < torch.tensor([12, 5])[:, None]
    everything = torch.ones(B * K, L, dtype=torch.bool)
    expected = ours.logits(ours(ids, everything, frames.repeat_interleave(K, 0), seen.repeat_interleave(K, 0)))
    cache = ours.start(frames, L)
    logits = ours.step(ids[::K, :4], cache, seen).repeat_interleave(K, 0)
    torch.testing.assert_close(logits, expected[:, 3], rtol=1e-4, atol=1e-4)
    cache.reorder(torch.arange(B).repeat_interleave(K))
    for place in range(4, L):
        logits = ours.step(ids[:, place : place + 1], cache, seen)
        torch.testing.assert_close(logits, expected[:, place], rtol=1e-4, atol=1e-4)


def test_reordered_cache_follows_its_beams(pair):
    ours, _ = pair
    ids = torch.randint(5, 500, (4, 6))
    frames, seen = torch.randn(1, 7, 96), torch.ones(1, 7, dtype=torch.bool)
    rows = torch.tensor([2, 2, 0, 3])
    cache = ours.start(frames, 8)
    ours.step(ids[:1, :1], cache, seen)
    cache.reorder(torch.zeros(4, dtype=torch.long))
    ids[:, 0] = ids[0, 0]
    for place in range(1, 5):
        ours.step(ids[:, place : place + 1], cache, seen)
    cache.reorder(rows)
    found = ours.step(ids[:, 5:], cache, seen)
    whole = torch.cat([ids[rows, :5], ids[:, 5:]], 1)
    expected = ours.logits(
        ours(whole, torch.ones(4, 6, dtype=torch.bool), frames.expand(4, -1, -1), seen.expand(4, -1))
    )[:, -1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "found list, expected an object"),
        ('{"hidden_size": 128}', "missing num_hidden_layers"),
        (SIZES % ("0", "2"), "hidden_size: found 0, expected a whole number from 1 to"),
        (SIZES % ("128.5", "2"), "hidden_size: found 128.5, expected a whole number"),
        (SIZES % ("1" + "0" * 400, "2"), "hidden_size: found 1000"),
        (
            SIZES % ("128", '2, "hidden_dropout_prob": 2.0'),
            "hidden_dropout_prob: found 2.0, expected a number from 0 to 1",
        ),
        (SIZES % ("128", '2, "pad_token_id": 9'), "pad_token_id: found 9, expected less than vocab_size"),
        ("[" * 100_000, "not valid JSON"),
        (SIZES % ("128", "3"), "hidden_size: found 128, expected a multiple of num_attention_heads"),
        (SIZES % ("128", '2, "hidden_act": "relu"'), "hidden_act: found 'relu', expected 'gelu'"),
    ],
)
def test_bad_med_config(tmp_path, text, message):
    path = tmp_path / "med.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        TextDecoderConfig.from_json(path)
    assert str(path) in str(caught.value)
    with pytest.raises(FileNotFoundError, match="none.json"):
        TextDecoderConfig.from_json(tmp_path / "none.json")
