import pytest
import torch

from models.vt_clip import load_vt_clip
from tests.golden.weights import fill_state_dict

LONG = "stir the pan slowly " * 20


@pytest.fixture(scope="module")
def vt_clip(tmp_path_factory, golden):
    shapes = {name: tuple(shape) for name, shape in golden("vt_clip_small_keys.json").items()}
    state = {name: torch.from_numpy(value) for name, value in fill_state_dict(shapes, 0.1).items()}
    path = tmp_path_factory.mktemp("clip") / "vt_clip.pth"
    torch.save(dict(model=state), path)
    return load_vt_clip(path)


@torch.no_grad()
def test_features_equal_golden_values(golden, vt_clip):
    golden_file = golden("vt_clip.npz")
    expected = torch.from_numpy(golden_file["text_features"])
    assert len(vt_clip.token_ids(golden_file["texts"][1])) > 77
    torch.testing.assert_close(vt_clip.encode_text(golden_file["texts"].tolist()), expected, rtol=1e-5, atol=1e-4)
    image = vt_clip.encode_image(torch.from_numpy(golden_file["image"]))
    torch.testing.assert_close(image, torch.from_numpy(golden_file["image_features"]), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_text_features_do_not_depend_on_the_batch(vt_clip):
    texts = ["a dog", LONG, "", "two dogs run", LONG + "!", "a cat"]
    batch = vt_clip.encode_text(texts)
    for i, text in enumerate(texts):
        torch.testing.assert_close(batch[i : i + 1], vt_clip.encode_text([text]), rtol=1e-5, atol=1e-5)


def test_padded_texts_have_the_features_and_gradients_of_single_texts(vt_clip):
    """Also texts of several lengths above 77 tokens, whose position tables are interpolated."""
    texts = ["a dog", LONG, "", "word " * 75, "word " * 76, LONG + "with a spoon", "two dogs run", "word " * 300, LONG]
    lengths = [len(vt_clip.token_ids(text)) for text in texts]
    assert {77, 78, 256} < set(lengths) and len({length for length in lengths if length > 77}) == 4
    parameters = dict(vt_clip.clip.named_parameters())
    names = ["positional_embedding", "token_embedding.weight", "text_projection", "ln_final.weight"]
    weights = torch.randn(len(texts), vt_clip.width)
    results = []
    for features in (vt_clip.encode_text_padded(texts), torch.cat([vt_clip.encode_text([text]) for text in texts])):
        gradients = torch.autograd.grad((features * weights).sum(), [parameters[name] for name in names])
        results.append((features, *gradients))
    for padded, single in zip(*results, strict=True):
        torch.testing.assert_close(padded, single, rtol=1e-4, atol=1e-4)
    assert all(gradient.abs().max() > 0.01 for gradient in results[0][1:])
    batch = vt_clip.encode_text(texts)
    torch.testing.assert_close(batch, results[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(vt_clip.encode_text_padded(["a dog"]), batch[:1], rtol=1e-5, atol=1e-5)


def test_texts_are_truncated_to_256_tokens_with_end_token(vt_clip):
    ids = vt_clip.token_ids("dog " * 400)
    assert len(ids) == 256 and ids[-1] == 49407 and ids[-2] != 49407
    assert vt_clip.token_ids("dog") == [49406, ids[1], 49407]


def test_position_table(vt_clip):
    table = vt_clip.clip.positional_embedding
    assert torch.equal(vt_clip.position_table(77), table) and torch.equal(vt_clip.position_table(5), table[:5])
    assert vt_clip.position_table(200).shape == (200, 64)


def test_other_checkpoints_raise(tmp_path):
    torch.save(dict(model={"weight": torch.ones(1)}), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="VT-CLIP: missing visual.conv1.weight"):
        load_vt_clip(tmp_path / "x.pth")
