import functools
import http.server
import logging
import os
import pathlib
import random
import threading

import pytest
import torch

from data.mini.encoders import build_vt_clip_state
from models.vt_clip import build_vt_clip, load_clip, load_vt_clip
from models.weights import DamagedCheckpoint, TorchScriptArchive, load_weights, main, read_checkpoint
from tests.conftest import ROOT
from tests.helpers.processes import run
from tests.helpers.torchscript import write_torchscript
from utils.download import resolve_file


def save_checkpoint(path, **content):
    torch.save(content, path)
    return str(path)


def randomize(model):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


@pytest.fixture
def released(mini_model, tmp_path):
    """A checkpoint in the released layout: TT+CA, both heads, a config, stale position ids."""
    model = randomize(mini_model("vtsum_blip_tt_ca"))
    state = model.state_dict() | {"text_decoder.bert.embeddings.position_ids": torch.arange(512)[None]}
    return model, save_checkpoint(tmp_path / "vtsum.pth", model=state, config={"vit": "base"}, epoch=55)


def assert_common_weights_equal(model, other):
    state, expected = model.state_dict(), other.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in state)


def test_released_checkpoint_loads(released, mini_model):
    model = mini_model("vtsum_blip_tt_ca")
    load_weights(model, released[1])
    assert_common_weights_equal(model, released[0])


@pytest.mark.parametrize(
    ("version", "task", "left_out"),
    [
        ("vtsum_blip_tt", "v2vt", ["context aggregation"]),
        ("vtsum_blip_tt_ca", "v2v", ["caption decoder"]),
        ("vtsum_blip_tt", "v2t", ["context aggregation", "saliency head"]),
    ],
)
def test_unused_parts_are_skipped_with_a_warning(released, mini_model, caplog, version, task, left_out):
    model = mini_model(version, task=task)
    with caplog.at_level(logging.WARNING):
        load_weights(model, released[1])
    assert [part for message, part in zip(caplog.messages, left_out) if part in message] == left_out
    assert len(caplog.messages) == len(left_out)
    assert_common_weights_equal(model, released[0])


def test_prefix_of_ddp_models_is_removed(released, mini_model, tmp_path):
    state = {f"module.{name}": value for name, value in released[0].state_dict().items()}
    model = mini_model("vtsum_blip_tt_ca")
    load_weights(model, save_checkpoint(tmp_path / "ddp.pth", model=state))
    assert_common_weights_equal(model, released[0])


def remove_aggregation(state):
    for name in [name for name in state if name.startswith("local_atten")]:
        del state[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("vsum_head.0.bias"), "missing: vsum_head.0.bias"),
        (lambda state: state.update({"tt.extra": torch.ones(1)}), "extra: tt.extra"),
        (
            lambda state: state.update({"tt.norm.bias": torch.ones(3)}),
            r"tt.norm.bias \(found \(3,\), expected \(768,\)\)",
        ),
        (remove_aggregation, "missing: local_atten_head.attn.proj"),
        (
            lambda state: state.update({"tt.norm.bias": torch.full((768,), torch.nan)}),
            "found NaN or infinity in tt.norm.bias",
        ),
        (lambda state: state.update({3: torch.ones(1)}), "found something else at 3"),
        (
            lambda state: state.update({"tt.norm.bias": torch.ones(768).to_sparse()}),
            "found something else at tt.norm.bias",
        ),
        (
            lambda state: state.update({"tt.norm.bias": torch.ones(768).long()}),
            r"tt.norm.bias \(found torch.int64, expected torch.float32",
        ),
        (
            lambda state: state.update({"epoch": 3}),
            "expected only dense tensors by name, found something else at epoch",
        ),
    ],
)
def test_mismatched_weights_are_listed(released, mini_model, tmp_path, change, message):
    state = dict(released[0].state_dict())
    change(state)
    model = mini_model("vtsum_blip_tt_ca")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_weights(model, save_checkpoint(tmp_path / "bad.pth", model=state))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.fixture
def blip(mini_model, tmp_path):
    """Return a function that saves a BLIP checkpoint: a model's caption decoder, parts of two encoders, stale ids."""

    def build(model, drop=()):
        state = {
            name: value for name, value in randomize(model).state_dict().items() if name.startswith("text_decoder.")
        }
        state |= {"visual_encoder.cls_token": torch.ones(1, 1, 768), "text_encoder.pooler.bias": torch.ones(768)}
        state |= {"text_decoder.bert.embeddings.position_ids": torch.arange(512)[None]}
        return save_checkpoint(
            tmp_path / "blip.pth", model={name: value for name, value in state.items() if name not in drop}
        )

    return build


def write_wide_config(tmp_path):
    path = tmp_path / "med.json"
    text = (ROOT / "configs/med_config_mini.json").read_text()
    path.write_text(text.replace('"hidden_size": 128', '"hidden_size": 768'))
    return str(path)


def test_blip_initializes_decoder_and_position_table(blip, mini_model, tmp_path, caplog):
    donor = mini_model(med_config=write_wide_config(tmp_path))
    model = mini_model(med_config=write_wide_config(tmp_path))
    before = model.tt.blocks[0].attn.qkv.weight.clone()
    with caplog.at_level(logging.WARNING):
        load_weights(model, blip(donor))
    assert_common_weights_equal(model.text_decoder, donor.text_decoder)
    table = donor.text_decoder.bert.embeddings.position_embeddings.weight
    assert torch.equal(model.position_embeddings.weight, table)
    assert torch.equal(model.tt.blocks[0].attn.qkv.weight, before)
    assert not caplog.messages
    model.position_embeddings.weight.data.zero_()  # a copy of the decoder's table
    assert model.text_decoder.bert.embeddings.position_embeddings.weight.abs().sum() > 0


def test_position_table_may_stay_as_initialized(blip, mini_model, tmp_path):
    model = mini_model(med_config=write_wide_config(tmp_path))
    before = model.position_embeddings.weight.clone()
    load_weights(model, blip(mini_model(med_config=write_wide_config(tmp_path))), position_init="normal")
    assert torch.equal(model.position_embeddings.weight, before)


@pytest.mark.parametrize("position_init", ["blip", "normal"])
def test_blip_parameters_of_another_width_are_skipped(blip, mini_model, tmp_path, caplog, position_init):
    """One warning names the position table and the keys and values of the frames; all others are loaded."""
    med_config = write_wide_config(tmp_path)
    donor = mini_model(med_config=med_config)
    model = mini_model(med_config=med_config, feature_width=512)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        load_weights(model, blip(donor), position_init=position_init)
    (message,) = caplog.messages
    assert "frame features are 512 wide, found other widths in the checkpoint: randomly initialized: " in message
    assert "0.crossattention.self.key.weight" in message and ("position_embeddings" in message) == (
        position_init == "blip"
    )
    after, source = model.state_dict(), donor.state_dict()
    for name in (name for name in source if name.startswith("text_decoder.")):
        is_skipped = name.endswith(("crossattention.self.key.weight", "crossattention.self.value.weight"))
        assert torch.equal(after[name], before[name] if is_skipped else source[name]), name
    assert torch.equal(after["position_embeddings.weight"], before["position_embeddings.weight"])


def test_blip_parameters_of_projected_features(blip, mini_model, tmp_path, caplog):
    med_config = write_wide_config(tmp_path)
    donor, model = (
        mini_model(med_config=med_config),
        mini_model(med_config=med_config, feature_width=500, feature_projection=True),
    )
    with caplog.at_level(logging.WARNING):
        load_weights(model, blip(donor))
    assert not caplog.messages
    assert_common_weights_equal(model.text_decoder, donor.text_decoder)


def test_incomplete_blip_decoder_raises(blip, mini_model, tmp_path):
    options = dict(med_config=write_wide_config(tmp_path))
    name = "text_decoder.cls.predictions.transform.dense.bias"
    with pytest.raises(ValueError, match=f"missing: {name}"):
        load_weights(mini_model(**options), blip(mini_model(**options), drop=(name,)))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    ("legacy", "reason"), [(False, "refused to load: found objects"), (True, "expected a whole file of torch.save")]
)
def test_a_checkpoint_cannot_run_code(tmp_path, mini_model, legacy, reason, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # has no effect on an explicit weights_only
    path, trace = tmp_path / "evil.pth", tmp_path / "was_here"
    torch.save(dict(model=Malicious(trace)), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(DamagedCheckpoint, match=reason) as caught:
        load_weights(mini_model(), path)
    assert not trace.exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn", b"\x80\x02}q\x00."])
def test_damaged_files_raise(tmp_path, mini_model, content):
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="bad.pth") as caught:
        load_weights(mini_model(), path)
    assert "\n" not in str(caught.value)


def test_flipped_bytes_load_or_raise_one_line(tmp_path):
    """A checkpoint with flipped bytes either loads or raises a one-line error."""
    path = tmp_path / "flipped.pth"
    whole = pathlib.Path(
        save_checkpoint(path, model={"a.weight": torch.randn(3, 4), "b": torch.arange(5)}, epoch=1)
    ).read_bytes()
    rng, num_errors = random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] ^= rng.randint(1, 255)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except ValueError as error:
            num_errors += 1
            assert str(error).startswith(f"{path}: checkpoint: ") and "\n" not in str(error)
    assert num_errors > 50


def test_truncated_and_missing_checkpoints_raise(released, tmp_path, mini_model):
    whole = pathlib.Path(released[1]).read_bytes()
    (tmp_path / "torn.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged or not a checkpoint"):
        read_checkpoint(tmp_path / "torn.pth")
    with pytest.raises(FileNotFoundError, match="none.pth: checkpoint: no such file"):
        read_checkpoint(tmp_path / "none.pth")


def test_urls_are_downloaded_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            requests.append(self.path)

    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save_checkpoint(tmp_path / folder / "w.pth", model={"name": torch.tensor(ord(folder))})
    handler = functools.partial(Handler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        values = [int(read_checkpoint(f"{url}/{folder}/w.pth")["model"]["name"]) for folder in "abab"]
        assert values == [ord(folder) for folder in "abab"]  # not confused despite equal file names
        assert len(requests) == 2
        with pytest.raises(FileNotFoundError, match="cannot be downloaded"):
            resolve_file(f"{url}/none.pth")
        server.shutdown()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_convert_command(released, mini_model, tmp_path, suffix):
    model, source = released
    out = tmp_path / f"out{suffix}"
    status, output = run(["python", "-m", "models.weights", "convert", source, out], ROOT)
    assert status == 0 and f"{out}: {len(model.state_dict())} tensors" in output
    other = mini_model("vtsum_blip_tt_ca")
    load_weights(other, out)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in other.state_dict().items())
    status, output = run(["python", "-m", "models.weights", "convert", source, tmp_path / "x.bin"], ROOT)
    assert (status, output.strip()) == (
        2,
        f"error: {tmp_path / 'x.bin'}: OUT: expected a name that ends in .safetensors or .pth",
    )


def test_changed_bytes_are_detected(tmp_path):
    path = tmp_path / "c.pth"
    whole = bytearray(pathlib.Path(save_checkpoint(path, model={"a": torch.zeros(10**4)})).read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DamagedCheckpoint, match=r"data/0: wrong checksum"):
        read_checkpoint(path)


@pytest.fixture
def torchscript_clip(tmp_path):
    """A tiny CLIP in OpenAI's format: state dict, and path of a TorchScript archive with sizes as buffers."""
    state, path = build_vt_clip_state(3), tmp_path / "ViT.pt"
    write_torchscript(path, state)
    return state, path


def test_torchscript_is_refused(torchscript_clip, tmp_path):
    _, path = torchscript_clip
    message = rf"^{path}: checkpoint: found a TorchScript archive, .*convert {path} OUT.* --allow_torchscript` and name"
    for load in (load_clip, load_vt_clip, read_checkpoint):
        with pytest.raises(TorchScriptArchive, match=message) as caught:
            load(path)
        assert str(caught.value).endswith("such as ViT-B-16") == (load is load_clip)  # only it accepts such names
    out = tmp_path / "out.safetensors"
    status, output = run(["python", "-m", "models.weights", "convert", path, out], ROOT)
    assert status == 2 and "error: " in output and "--allow_torchscript" in output and not out.exists()


@torch.no_grad()
def test_torchscript_is_converted_when_allowed(torchscript_clip, tmp_path, capsys):
    state, path = torchscript_clip
    out = tmp_path / "out.safetensors"
    main(["convert", str(path), str(out), "--allow_torchscript"])
    output = capsys.readouterr().out
    assert f"{path}: executing the TorchScript archive" in output and f"{out}: {len(state) + 1} tensors" in output
    expected, converted = build_vt_clip(state), load_vt_clip(out)
    texts, images = ["a dog", "a man runs " * 40], torch.randn(2, 3, 64, 64)
    assert torch.equal(converted.encode_text(texts), expected.encode_text(texts))
    assert torch.equal(converted.encode_image(images), expected.encode_image(images))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedCheckpoint, match="damaged"):
        main(["convert", str(path), str(out), "--allow_torchscript"])
