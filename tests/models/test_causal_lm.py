"""Causal language models as caption decoders, on small random models of three families."""

import ast
import itertools
import json
import pickle
import shutil
import sys

import pytest
import torch
import transformers

from benchmarks.language_models import LANGUAGE_MODEL_POSITIONS, write_language_model
from models.causal_lm import DECODER_TRAINING_MODES, PAD_ID
from models.weights import load_weights
from tests.conftest import ROOT, make_once

FAMILIES = ("gpt2", "qwen3", "llama")
CAPTIONS = ["a red circle bounces", "a blue square spins then finally a circle grows", "a green triangle"]
CAPTIONS = [f"a video of {caption}" for caption in CAPTIONS]


@pytest.fixture(scope="module")
def language_models(mini_root, tmp_path_factory):
    """Folder with one small language model per family."""

    def write(root):
        for family in FAMILIES:
            write_language_model(root / family, family, mini_root / "tokenizer", std=0.2)  # captions differ

    return make_once(tmp_path_factory, "language_models", write)


@pytest.fixture
def build(mini_model, language_models):
    """Return a function that builds a seeded model with a language model as its caption decoder."""

    def build_model(family="gpt2", train="projector", **options):
        defaults = dict(
            decoder="causal_lm", decoder_path=language_models / family, decoder_train=train, decoder_lora_rank=4
        )
        return mini_model("vtsum_blip_tt", **defaults | dict(tt_depth=0) | options)

    return build_model


@pytest.mark.parametrize("train", DECODER_TRAINING_MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_trained_part_is_trained_and_saved(build, language_models, random_videos, family, train, tmp_path):
    model = build(family, train)
    decoder, videos = model.text_decoder, random_videos([9, 5, 3])
    trained = {name for name, parameter in decoder.named_parameters() if parameter.requires_grad}
    saved = decoder.state_dict()
    assert {name for name in trained if name.startswith("projector.")} == {
        f"projector.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")
    }
    if train == "all":
        assert trained <= saved.keys() and len(trained) == len({id(p) for p in decoder.parameters()})
        assert decoder.describe_base().keys() == {"name", "tokenizer_sha256"}
    else:
        assert trained == saved.keys()
        assert any("lora_" in name for name in trained) == (train == "lora")
        assert decoder.describe_base()["name"] == str(language_models / family)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):  # the first step leaves one of the two LoRA matrices, which starts with a zero gradient
        model(*videos, CAPTIONS)[0].backward()
        assert all(p.grad is None for p in decoder.parameters() if not p.requires_grad)
        optimizer.step()
        optimizer.zero_grad()
    changed = {
        name.removeprefix("text_decoder.")
        for name, parameter in model.named_parameters()
        if name.startswith("text_decoder.") and not torch.equal(parameter, before[name])
    }
    assert changed == trained

    torch.save(dict(model=model.state_dict()), tmp_path / "trained.pth")
    other = build(family, train)
    load_weights(other, tmp_path / "trained.pth")
    captions, saliency = model.eval().generate(*videos[:2], max_length=12)
    other_captions, other_saliency = other.eval().generate(*videos[:2], max_length=12)
    assert captions == other_captions and torch.equal(saliency, other_saliency)
    assert model(*videos, CAPTIONS)[0] == other(*videos, CAPTIONS)[0]
    other.load_state_dict(model.state_dict())  # strict
    with pytest.raises(RuntimeError, match="projector.0.weight"):
        other.load_state_dict({k: v for k, v in model.state_dict().items() if "projector.0" not in k})


def test_tied_embeddings_stay_tied(build):
    decoder = build("gpt2", "all").text_decoder
    decoder.load_state_dict({name: value + 1 for name, value in decoder.state_dict().items()})
    assert decoder.base.lm_head.weight is decoder.base.transformer.wte.weight


@pytest.mark.parametrize(("family", "train"), [("gpt2", "all"), ("llama", "all"), ("qwen3", "lora")])
def test_overfits_two_captions(build, random_videos, family, train):
    model, videos = build(family, train), random_videos([7, 12])
    optimizer = torch.optim.AdamW([p for p in model.text_decoder.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(100):
        loss = model(*videos, CAPTIONS[:2])[0]
        if loss < 0.1:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    expected = [caption.removeprefix("a video of ") for caption in CAPTIONS[:2]]
    for num_beams in (1, 3):
        assert model.generate(*videos[:2], num_beams=num_beams, min_length=0)[0] == expected


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_padding_does_not_change_the_loss(build, random_videos, family):
    """Videos together, padded on either side, against unpadded sequences given to the language model one by one."""
    model, lengths = build(family).eval(), [9, 4, 1]
    embeddings, mask, _ = random_videos(lengths)
    decoder = model.text_decoder
    total, count = 0.0, 0
    for i, length in enumerate(lengths):
        frames, _ = model.encode(embeddings[i : i + 1, :length], mask[i : i + 1, :length])
        ids = torch.tensor([decoder.encode_caption(CAPTIONS[i])])
        embed = decoder.base.get_input_embeddings()
        prefix = [embed(torch.tensor([decoder.bos_ids], dtype=torch.long)), decoder.projector(frames)]
        logits = decoder.base(inputs_embeds=torch.cat([*prefix, embed(ids)], 1)).logits
        scored = ids.shape[1] - len(decoder.tokenizer.prompt_ids)
        log_probs = logits[0, -1 - scored : -1].log_softmax(-1)
        total -= log_probs.gather(1, ids[0, -scored:, None]).sum()
        count += scored
    rows = [decoder.encode_caption(caption) for caption in CAPTIONS]
    longest = max(map(len, rows)) + 2
    right = torch.tensor([row + [PAD_ID] * (longest - len(row)) for row in rows])
    left = torch.tensor([[PAD_ID] * (longest - len(row)) + row for row in rows])
    more_frames = torch.nn.functional.pad(embeddings, (0, 0, 0, 6)), torch.nn.functional.pad(mask, (0, 6))
    for captions, videos in itertools.product((CAPTIONS, rows, right, left), ((embeddings, mask), more_frames)):
        loss = model(*videos, torch.zeros(3, 10, videos[1].shape[1]), captions)[0]
        torch.testing.assert_close(loss, total / count, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_gives_the_captions_of_its_videos(build, random_videos, family):
    model, lengths = build(family), [13, 4, 9, 1]
    embeddings, mask, _ = random_videos(lengths)
    for options in (
        dict(num_beams=1, max_length=14),
        dict(num_beams=2, max_length=14, repetition_penalty=1.3),
        dict(num_beams=4, max_length=14, min_length=6),
    ):
        together = model.generate(embeddings, mask, **options)[0]
        singly = [
            model.generate(embeddings[i : i + 1, :length], mask[i : i + 1, :length], **options)[0][0]
            for i, length in enumerate(lengths)
        ]
        assert together == singly
    assert len(set(together)) > 1, "the captions do not depend on the video, so this case is weaker than intended"


@pytest.mark.parametrize("min_length", [0, 5, 9])
def test_generated_lengths_are_within_limits(build, random_videos, min_length, monkeypatch):
    model = build("llama")
    embeddings, mask, _ = random_videos([9, 5])
    decoder = model.text_decoder
    prompt_ids, end_id = decoder.tokenizer.prompt_ids, decoder.tokenizer.base_tokenizer.eos_token_id

    def favor_end(module, inputs, output):
        output.logits[..., end_id] += 30

    decoder.base.register_forward_hook(favor_end)
    monkeypatch.setattr(decoder, "decode", torch.Tensor.tolist)
    for sample in (False, True):
        for ids in model.generate(embeddings, mask, sample=sample, max_length=9, min_length=min_length)[0]:
            assert ids[:3] == prompt_ids and len(ids) <= 9
            assert (ids.index(end_id) if end_id in ids else 9) == max(3, min_length)
    with pytest.raises(ValueError, match="max_length: found 3, expected at least 4 tokens"):
        model.generate(embeddings, mask, max_length=3)
    with pytest.raises(ValueError, match="num_beams: found 0, expected at least 1"):
        model.generate(embeddings, mask, num_beams=0)


def test_sampling_uses_the_global_generator(build, random_videos):
    model, videos = build("qwen3"), random_videos([9, 5])[:2]

    def draw(seed, **options):
        torch.manual_seed(seed)
        return model.generate(*videos, sample=True, max_length=14, **options)[0]

    assert draw(0) == draw(0) != draw(1)
    assert draw(0) != draw(0, repetition_penalty=5.0)


def test_generation_defaults_of_the_hub_are_not_used(build, language_models, random_videos, tmp_path):
    videos, folder = random_videos([9, 5])[:2], tmp_path / "instruct"
    shutil.copytree(language_models / "qwen3", folder)
    sampling = dict(do_sample=True, temperature=5.0, top_k=20, num_return_sequences=2, length_penalty=-9.0)
    (folder / "generation_config.json").write_text(json.dumps(sampling))
    assert build(decoder_path=folder).generate(*videos)[0] == build("qwen3").generate(*videos)[0]


def test_captions_as_ids(build):
    decoder = build("gpt2", max_text_length=8).text_decoder
    encode = pickle.loads(pickle.dumps(decoder.encode_caption))
    ids = encode(CAPTIONS[0])
    end_id = decoder.tokenizer.base_tokenizer.eos_token_id
    assert ids[:3] == decoder.tokenizer.prompt_ids and ids[-1] == end_id and end_id not in ids[:-1]
    assert decoder.decode([ids, torch.tensor([*ids, PAD_ID])]) == ["a red circle bounces"] * 2
    cut = encode(CAPTIONS[1])
    assert len(cut) == 8 and cut[-1] == end_id and decoder.decode([cut]) == ["a blue square spins"]
    assert len(pickle.dumps(decoder.encode_caption)) < 50_000, "it must not hold the weights"


def test_a_frozen_language_model_has_no_dropout(build, random_videos):
    videos = random_videos([9, 5, 3])
    for train, is_random in (("projector", False), ("lora", False), ("all", True)):
        model = build("gpt2", train).train()
        assert (model(*videos, CAPTIONS)[0] != model(*videos, CAPTIONS)[0]).item() == is_random
        captions = [model.generate(*videos[:2])[0] for _ in range(2)]
        assert captions[0] == captions[1] and model.training


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("train", ["lora", "all"])
def test_activation_recomputation_does_not_change_gradients(build, random_videos, train, layers):
    videos, gradients, calls = random_videos([12, 7, 3]), [], []
    for recompute in (False, True):
        model = build("gpt2", train, vit_grad_ckpt=recompute, vit_ckpt_layer=layers).train()
        first, last = model.text_decoder.base.transformer.h
        for layer in (first, last):
            layer.ln_1.register_forward_hook(lambda *_, name=layer is last: calls.append(name))
        torch.manual_seed(1)  # dropout
        model(*videos, CAPTIONS)[0].backward()
        gradients.append([p.grad for p in model.text_decoder.parameters() if p.requires_grad])
    assert all(torch.equal(*pair) for pair in zip(*gradients))
    assert (calls.count(False), calls.count(True)) == ((3, 3) if layers == 0 else (2, 3))


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.soak
def test_compiled_layers_give_equal_losses_and_captions(build, random_videos):
    plain, compiled = build("qwen3", "lora"), build("qwen3", "lora")
    compiled.compile_layers()
    for lengths in ([9, 5, 3], [4, 7, 8]):
        videos = random_videos(lengths)
        assert compiled(*videos, CAPTIONS)[0].item() == pytest.approx(plain(*videos, CAPTIONS)[0].item(), rel=1e-5)
        assert compiled.generate(*videos[:2])[0] == plain.generate(*videos[:2])[0]
    assert compiled.state_dict().keys() == plain.state_dict().keys()


def test_bf16_autocast(build, random_videos):
    model, videos = build("llama", "lora"), random_videos([9, 5, 3])
    full = model(*videos, CAPTIONS)[0]
    with torch.autocast("cpu", torch.bfloat16):
        low = model(*videos, CAPTIONS)[0]
        captions, _ = model.generate(*videos[:2])
    low.backward()
    assert low.dtype == torch.float32 and low.item() == pytest.approx(full.item(), rel=0.02) and len(captions) == 3
    assert all(p.grad.isfinite().all() for p in model.text_decoder.parameters() if p.requires_grad)


def test_blip_weights_give_only_the_position_table(build, mini_model, tmp_path):
    torch.save(dict(model=mini_model("vtsum_blip_tt").text_decoder.state_dict(prefix="text_decoder.")), tmp_path / "b")
    state = torch.load(tmp_path / "b")["model"]
    table = torch.randn(512, 768)
    state["text_decoder.bert.embeddings.position_embeddings.weight"] = table
    torch.save(dict(model=state), tmp_path / "blip.pth")
    model, untouched = build(), build()
    load_weights(model, tmp_path / "blip.pth")
    assert torch.equal(model.position_embeddings.weight, table)
    for name, value in model.state_dict().items():
        assert name == "position_embeddings.weight" or torch.equal(value, untouched.state_dict()[name])


def test_loading_shows_no_progress_bar(build, capfd):
    """The settings of transformers, and those of the hub's downloads, stay as they were."""
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    hook = logging.set_tqdm_hook(None)
    before = logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    build()
    assert "%|" not in capfd.readouterr().err
    assert (logging.is_progress_bar_enabled(), are_progress_bars_disabled()) == before
    assert before[0] and logging.set_tqdm_hook(hook) is None


def test_invalid_language_models_and_options_raise(build, language_models, random_videos, tmp_path, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match=r"^none/such: decoder_path: found nothing that .* \(OSError: .*\), expected a f.*$"
    ):
        build(decoder_path="none/such")
    for path in (f"{tmp_path}/none", "./none", "../none", "a/folder/none"):
        message = "decoder_path: no such folder; expected a folder or hub name of a causal language model"
        with pytest.raises(FileNotFoundError, match=f"^{path}: {message}$"):
            build(decoder_path=path)
    with pytest.raises(ValueError, match=f"^{tmp_path}: decoder_path: found nothing that transformers loads"):
        build(decoder_path=tmp_path)
    for change, message in (
        (dict(auto_map=dict(AutoConfig="code.Config"), model_type="new"), "found nothing that transformers loads"),
        (dict(n_layer=3), "found weights without transformer.h.2"),
    ):
        folder = tmp_path / next(iter(change))
        shutil.copytree(language_models / "gpt2", folder)
        config = json.loads((folder / "config.json").read_text()) | change
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "code.py").write_text("raise SystemExit('executed')")
        with pytest.raises(ValueError, match=f"^{folder}: decoder_path: {message}"):
            build(decoder_path=folder)
    bidirectional = transformers.RobertaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    shutil.copytree(language_models / "gpt2", tmp_path / "roberta")
    torch.manual_seed(0)
    transformers.RobertaForMaskedLM(bidirectional).save_pretrained(tmp_path / "roberta")
    with pytest.raises(ValueError, match="roberta: decoder_path: found a model whose tokens attend to later ones"):
        build(decoder_path=tmp_path / "roberta")
    with pytest.raises(ValueError, match=r"max_text_length: found 3, expected at least 4 \(prompt and one token\)"):
        build(max_text_length=3)
    with pytest.raises(ValueError, match="decoder: found 'lstm', expected one of blip, causal_lm"):
        build(decoder="lstm")
    model, videos = build(), random_videos([LANGUAGE_MODEL_POSITIONS])
    with pytest.raises(
        ValueError, match=f"decoder_path: found {LANGUAGE_MODEL_POSITIONS} positions, expected enough for 200 frames"
    ):
        model(*videos, CAPTIONS[:1])
    with pytest.raises(ValueError, match="expected enough for 200 frames and 30 tokens"):
        model.generate(*videos[:2])
    with pytest.raises(ValueError, match="tsum_labels: found caption 1 of 2 tokens, expected more than the 3 of the"):
        model(*random_videos([3, 2]), [[5, 6, 7, 8, 9], [5, 6]])
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match="decoder_train: found 'lora', which requires peft: pip install peft"):
        build(train="lora")


def test_the_model_does_not_depend_on_a_decoder():
    """Search, cache, packed layers and tokenizers are imported by decoders only."""
    tree = ast.parse((ROOT / "models/vtsum_blip.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    decoders = ("blip_decoder", "causal_lm", "text_decoder", "beam_search", "cache", "packed_linear", "tokenizer")
    assert "models.caption_decoder" in imported
    assert not imported & {f"models.{name}" for name in (*decoders, "med_config")}
