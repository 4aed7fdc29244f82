import pytest
import torch
from transformers import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from benchmarks.peers import pass_frame_mask
from models.med_config import TextDecoderConfig
from models.text_decoder import TextDecoder
from tests.conftest import GOLDEN
from tests.models.padded import caption_states

SIZES = (
    '{"hidden_size": %s, "num_hidden_layers": 2, "intermediate_size": 9, "vocab_size": 9, "num_attention_heads": %s}'
)


@pytest.fixture
def pair():
    """Our decoder and transformers' with the same weights."""
    torch.manual_seed(0)
    config = TextDecoderConfig.from_json(GOLDEN / "med_small.json")
    ours = TextDecoder(config.model_copy(update=dict(vocab_size=500, num_hidden_layers=3)), encoder_width=96).eval()
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
    for layer in theirs.bert.encoder.layer:
        layer.crossattention.self.register_forward_pre_hook(pass_frame_mask, with_kwargs=True)
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected and all(name.endswith("position_ids") for name in missing)
    return ours, theirs


def test_equals_transformers(pair):
    ours, theirs = pair
    ids = torch.randint(5, 500, (3, 17))
    attention = torch.arange(17) < torch.tensor([17, 9, 4])[:, None]
    frames = torch.randn(3, 23, 96)
    seen = torch.arange(23) < torch.tensor([23, 11, 2])[:, None]
    expected = theirs(
        input_ids=ids,
        attention_mask=attention.long(),
        encoder_hidden_states=frames,
        encoder_attention_mask=seen.long(),
        return_dict=True,
        is_decoder=True,
    ).logits
    found = ours.logits(caption_states(ours, ids, attention, frames, seen))
    torch.testing.assert_close(found[attention], expected[attention], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_cached_steps_equal_whole_captions(pair):
    ours, _ = pair
    K, B, L = 3, 2, 9
    ids = torch.randint(5, 500, (B * K, L))
    ids[:, :4] = ids[0, :4]
    frames = torch.randn(B, 12, 96)
    seen = torch.arange(12) < torch.tensor([12, 5])[:, None]
    everything = torch.ones(B * K, L, dtype=torch.bool)
    beams = frames.repeat_interleave(K, 0), seen.repeat_interleave(K, 0)
    expected = ours.logits(caption_states(ours, ids, everything, *beams)).view(B, K, L, -1)
    cache, logits = ours.start(ids[0, :4].tolist(), frames, seen, num_beams=K, max_length=L)
    torch.testing.assert_close(logits, expected[:, 0, 3], rtol=1e-4, atol=1e-4)
    for place in range(4, L):
        logits = ours.step(ids[:, place].view(B, K), cache)
        torch.testing.assert_close(logits, expected[:, :, place], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_cache_follows_its_beams_and_lets_videos_go(pair):
    ours, _ = pair
    B, K = 3, 4
    ids = torch.randint(5, 500, (B, K, 6))
    ids[:, :, 0] = 7
    frames, seen = torch.randn(B, 7, 96), torch.arange(7) < torch.tensor([7, 3, 5])[:, None]
    parents = torch.tensor([[2, 2, 0, 3], [0, 1, 2, 3], [3, 3, 3, 3]])
    cache, _ = ours.start([7], frames, seen, num_beams=K, max_length=8)
    for place in range(1, 4):
        ours.step(ids[:, :, place], cache)
    cache.reorder_beams(parents)
    ours.step(ids[:, :, 4], cache)
    cache.select_videos(torch.tensor([0, 2]))
    found = ours.step(ids[[0, 2], :, 5], cache)
    whole = torch.cat([ids[:, :, :4].gather(1, parents[..., None].expand(-1, -1, 4)), ids[:, :, 4:]], 2)[[0, 2]]
    beams = (x[[0, 2]].repeat_interleave(K, 0) for x in (frames, seen))
    states = caption_states(ours, whole.flatten(0, 1), torch.ones(8, 6, dtype=torch.bool), *beams)
    expected = ours.logits(states[:, -1]).view(2, K, -1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "found a list of 0, expected an object"),
        ('{"hidden_size": 128}', "num_hidden_layers: missing"),
        (SIZES % ("0", "2"), "hidden_size: found 0, expected at least 1"),
        (SIZES % ("128.5", "2"), "hidden_size: found 128.5, expected a whole number"),
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
def test_bad_med_config(tmp_path, text, message):
    path = tmp_path / "med.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        TextDecoderConfig.from_json(path)
    assert str(path) in str(caught.value)
    with pytest.raises(FileNotFoundError, match="none.json"):
        TextDecoderConfig.from_json(tmp_path / "none.json")
