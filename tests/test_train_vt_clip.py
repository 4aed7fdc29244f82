"""Training of VT-CLIP: its loss, its random draws and its outputs."""

import json
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import extract_features
import train_vt_clip
from data.vt_clip_dataset import VTClipDataset
from engine.vt_clip_training import VTClipTrainer, require_same_clip
from metrics.keyframes import select_top_rows
from models.losses import vt_clip_loss
from models.vt_clip import load_vt_clip
from models.weights import hash_weights
from tests.conftest import ROOT
from tests.helpers.device_options import expect_device_options
from tests.helpers.processes import LAUNCHER, run

CONFIG = str(ROOT / "configs/vt_clip.yaml")


@pytest.fixture
def flags(mini_root):
    """Flags that train from the features of mini VideoXum."""
    return [
        *("--config", CONFIG, "--ann_root", str(mini_root / "anno"), "--clip", str(mini_root / "vt_clip.pth")),
        *("--vision_root", str(mini_root / "feat/vt_clipscore"), "--device", "cpu", "--num_workers", "0"),
        *("--log_freq", "1", "--init_lr", "1e-3"),
    ]


def read_log(folder, kind):
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [entry for entry in entries if entry["type"] == kind]


@pytest.mark.parametrize(("precision", "tf32"), [("bf16", False), ("fp16", True)])
def test_half_precision_learns(flags, tmp_path, precision, tf32):
    """The gradient scaler of fp16 skips the first steps."""
    argv = [*flags, "--batch_size", "8", "--max_epoch", "5", "--precision", precision, "--output_dir", str(tmp_path)]
    with expect_device_options(tf32):
        train_vt_clip.main([*argv, *(["--tf32"] if tf32 else [])])
    losses = [entry["loss"] for entry in read_log(tmp_path, "epoch")]
    assert losses[-1] < 0.7 * losses[0]
    assert all(("scale" in entry) == (precision == "fp16") for entry in read_log(tmp_path, "epoch"))


def test_loss_equals_explicit_loops():
    torch.manual_seed(0)
    N, C, scale = 5, 16, torch.tensor(7.0)
    keyframes, others, texts = torch.randn(3, N, C).double()
    has_others = torch.tensor([1.0, 1, 0, 1, 1])

    def cosine(a, b):
        return float(a @ b / a.norm() / b.norm())

    terms = []
    for i in range(N):
        candidates = [cosine(texts[i], keyframes[j]) for j in range(N)]
        terms.append(-torch.log_softmax(torch.tensor([cosine(keyframes[i], text) for text in texts]) * scale, 0)[i])
        if has_others[i]:
            mixed = [others[i] * (1 - 0.1 * k) + keyframes[i] * 0.1 * k for k in range(6)]
            candidates += [cosine(texts[i], mixture) for mixture in mixed]
        terms.append(-torch.log_softmax(torch.tensor(candidates) * scale, 0)[i])
    loss, accuracy = vt_clip_loss(keyframes, others, has_others, texts, scale)
    assert loss.item() == pytest.approx(sum(terms).item() / (2 * N), rel=1e-6)
    is_correct = [max(range(N), key=lambda j: cosine(texts[i], keyframes[j])) == i for i in range(N)]
    assert accuracy[0].item() == pytest.approx(np.mean(is_correct))


def test_gradients_are_finite_without_other_frames():
    keyframes, texts = torch.randn(2, 3, 8, requires_grad=True).unbind()
    others, scale = torch.zeros(3, 8, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    loss, accuracy = vt_clip_loss(keyframes, others, torch.zeros(3), texts, scale)
    loss.backward()
    assert others.grad.abs().max() == 0 and accuracy[1] == 1
    cosines = F.normalize(texts.detach(), dim=-1) @ F.normalize(keyframes.detach(), dim=-1).T
    expected_scale = torch.tensor(2.0, requires_grad=True)
    targets = torch.arange(3)
    losses = [F.cross_entropy(expected_scale * logits, targets) for logits in (cosines, cosines.T)]
    (sum(losses) / 2).backward()
    assert scale.grad.item() == pytest.approx(expected_scale.grad.item(), rel=1e-5)


def test_padded_texts_equal_single_texts(mini_root):
    clip = load_vt_clip(mini_root / "vt_clip.pth")
    texts = ["a dog", "a red circle bounces then a blue square spins", "word " * 120, "word " * 300, ""]
    with torch.no_grad():
        assert torch.allclose(clip.encode_text_padded(texts), clip.encode_text(texts), atol=1e-5)


def test_draws_depend_only_on_seed_and_epoch(mini_root):
    root = dict(vision_root=mini_root / "feat/vt_clipscore")
    data = VTClipDataset(mini_root / "anno/train_videoxum.json", seed=1, select_keyframes=select_top_rows, **root)
    same_seed = VTClipDataset(mini_root / "anno/train_videoxum.json", seed=1, select_keyframes=select_top_rows, **root)
    first = [data[i, 0][0] for i in range(10)]
    assert all(torch.equal(drawn, same_seed[i, 0][0]) for i, drawn in enumerate(first))
    assert any(not torch.equal(drawn, data[i, 1][0]) for i, drawn in enumerate(first))
    record, features = data.records[3], np.load(root["vision_root"] / f"{data.records[3].video_id}.npz")["vision"]
    keyframes, others, has_others, *_ = data[3, 0]
    rows = [
        row for row in record.vsum_onehot.astype(bool) if np.allclose(features[row].mean(0), keyframes[0], atol=1e-5)
    ]
    assert rows and has_others
    assert np.allclose(features[~rows[0]].mean(0), others[0], atol=1e-5)


@pytest.mark.parametrize("labels", [[[1, 1]] * 10, [[0, 0]] * 10, [[1]] * 10])
def test_video_without_other_frames_or_key_frames(tmp_path, labels):
    entry = dict(video_id="v", duration=2.0, tsum=["a dog."], vsum_onehot=labels)
    (tmp_path / "anno.json").write_text(json.dumps([entry]))
    features = np.arange(8, dtype=np.float32).reshape(2, 4)[: len(labels[0])]
    np.savez(tmp_path / "v.npz", vision=features)
    dataset = VTClipDataset(tmp_path / "anno.json", seed=0, select_keyframes=select_top_rows, vision_root=tmp_path)
    keyframes, others, has_others, text, _ = dataset[0, 0]
    assert np.allclose(keyframes[0], features.mean(0)) and not has_others and not others.any() and text == "a dog"


def test_training_from_features(flags, mini_root, mini_videos, tmp_path):
    """The loss decreases, only the intended parameters change, and the saved CLIP has the trained features."""
    out = tmp_path / "out"
    train_vt_clip.main([*flags, "--batch_size", "16", "--max_epoch", "6", "--output_dir", str(out)])
    losses = [entry["loss"] for entry in read_log(out, "step")]
    assert len(losses) == 12 and np.mean(losses[-2:]) < 0.8 * np.mean(losses[:2])
    assert len(read_log(out, "validation")) == 6
    before, after = load_vt_clip(mini_root / "vt_clip.pth"), load_vt_clip(out / "vt_clip.pth")
    for (name, trained), initial in zip(after.clip.named_parameters(), before.clip.parameters()):
        # Embeddings of unused tokens change only by weight decay.
        frozen = name.startswith("visual.") and name != "visual.proj"
        assert torch.equal(trained, initial) == frozen, name

    state = torch.load(out / "checkpoint.pth", weights_only=True)["model"]
    images = torch.randn(2, 3, before.image_size, before.image_size)
    with torch.no_grad():
        expected = before.encode_image(images) @ state["projection"]
        assert torch.allclose(after.encode_image(images), expected, atol=1e-4)


def test_resumed_run_ends_with_the_same_bytes(flags, tmp_path, monkeypatch):
    argv = [*flags, "--batch_size", "16", "--max_epoch", "2"]
    train_vt_clip.main([*argv, "--output_dir", str(tmp_path / "whole")])
    interrupted = tmp_path / "half"
    calls, validate = [], VTClipTrainer.validate

    def interrupt_second_call(trainer):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return validate(trainer)

    monkeypatch.setattr(VTClipTrainer, "validate", interrupt_second_call)
    with pytest.raises(KeyboardInterrupt):
        train_vt_clip.main([*argv, "--output_dir", str(interrupted)])
    monkeypatch.undo()
    train_vt_clip.main([*argv, "--output_dir", str(interrupted), "--resume", str(interrupted / "checkpoint.pth")])
    actual, expected = (
        torch.load(tmp_path / name / "vt_clip.pth", weights_only=True)["model"] for name in ("half", "whole")
    )
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_two_processes_contrast_all_videos(flags, tmp_path):
    """Losses of 2 x 8 videos equal those of 1 x 16, also after steps with gradients of the gathered features."""
    train_vt_clip.main([*flags, "--batch_size", "16", "--max_epoch", "2", "--output_dir", str(tmp_path / "one")])
    argv = [*LAUNCHER, "--nproc_per_node=2", str(ROOT / "train_vt_clip.py"), *flags, "--batch_size", "8"]
    status, output = run([*argv, "--max_epoch", "2", "--output_dir", tmp_path / "two"], ROOT)
    assert status == 0, output
    for kind in ("step", "validation"):
        one, two = read_log(tmp_path / "one", kind), read_log(tmp_path / "two", kind)
        assert len(one) == len(two) > 1
        assert [entry["loss"] for entry in one] == pytest.approx([entry["loss"] for entry in two], rel=2e-4)


def test_training_from_videos(mini_videos, tmp_path):
    """The image encoder is trained too."""
    clip = str(mini_videos / "vt_clip.pth")
    argv = ["--config", CONFIG, "--ann_root", str(mini_videos / "anno"), "--videos", str(mini_videos / "videos")]
    argv += ["--clip", clip, "--frames", "2", "--device", "cpu", "--num_workers", "1", "--max_epoch", "2"]
    train_vt_clip.main([*argv, "--batch_size", "4", "--output_dir", str(tmp_path), "--init_lr", "1e-4"])
    before, after = load_vt_clip(clip), load_vt_clip(tmp_path / "vt_clip.pth")
    changed = [
        name
        for (name, trained), initial in zip(after.clip.named_parameters(), before.clip.parameters())
        if not torch.equal(trained, initial)
    ]
    assert {name for name, _ in before.clip.named_parameters()} == set(changed)


def test_features_of_another_clip_raise(flags, mini_root, tmp_path, caplog):
    """Features of an unknown CLIP are used with a warning."""
    clip = load_vt_clip(mini_root / "vt_clip.pth")
    require_same_clip(mini_root / "feat/vt_clipscore", clip)
    assert "the CLIP of these features is unknown" in caplog.text
    record = tmp_path / "extraction.json"
    record.write_text(json.dumps(dict(weights_sha256=hash_weights(clip.clip))))
    require_same_clip(tmp_path, clip)
    record.write_text("[")
    with pytest.raises(ValueError, match=r"json: weights_sha256: found None, expected "):
        require_same_clip(tmp_path, clip)
    record.write_text(json.dumps(dict(weights_sha256="0")))
    with pytest.raises(
        ValueError, match=r"extraction.json: weights_sha256: found 0, expected .*these features are of another CLIP"
    ):
        require_same_clip(tmp_path, clip)


def test_pixels_equal_those_of_extraction(mini_videos, tmp_path):
    """Features of the drawn frames equal those of `extract_features.py`."""
    clip = load_vt_clip(mini_videos / "vt_clip.pth")
    record_file = mini_videos / "anno/val_videoxum.json"
    argv = ["--videos", str(mini_videos / "videos"), "--out", str(tmp_path), "--blip", "", "--device", "cpu"]
    argv += ["--annotations", str(record_file), "--num_workers", "0"]
    extract_features.main([*argv, "--vt_clip", str(mini_videos / "vt_clip.pth")])
    from data.video.files import find_videos
    from models.frame_encoders import clip_frame_encoder

    encoder = clip_frame_encoder(clip)
    pairs = VTClipDataset(
        record_file,
        seed=0,
        select_keyframes=select_top_rows,
        videos=find_videos([mini_videos / "videos"]),
        transform=encoder.transform,
        frames=4,
    )
    keyframes, others, *_ = pairs[0, 0]
    rows = np.load(tmp_path / f"vt_clipscore/{pairs.records[0].video_id}.npz")["vision"]
    with torch.no_grad():
        for pixels in (*keyframes, *others):
            feature = clip.encode_image(encoder.normalize(pixels[None])).numpy()
            assert np.abs(rows - feature).max(1).min() < 1e-4


def test_invalid_arguments_raise(flags, tmp_path, monkeypatch, mini_root):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("fake.pt", "w") as archive:
        archive.writestr("archive/constants.pkl", b"")
    for argv, message in (
        (["--clip", "ViT-Z"], "ViT-Z: clip: no such file, expected a file or one of ViT-B-16, ViT-B-32"),
        (["--clip", "ViT-B-32"], "ViT-B-32: clip: cannot be downloaded from open_clip's hub"),
        (["--clip", "fake.pt"], "fake.pt: checkpoint: found a TorchScript archive"),
        (["--vision_root", "none"], "none: VT-CLIP features: no such folder"),
        (["--videos", str(mini_root)], "videos: found none"),
        (["--batch_size", "1"], "batch_size: found 1, expected at least 2"),
        (["--frame", "1"], "--frame: unknown flag; did you mean --frames?"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            train_vt_clip.main([*flags, "--output_dir", "out", *argv])
    assert not list(tmp_path.rglob("*.pth"))
