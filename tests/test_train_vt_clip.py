"""VT-CLIP's training: its loss, what it draws, what it leaves behind."""

import json
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import extract_features
import train_vt_clip
from data.vt_clip_pairs import Pairs
from engine.vt_clip_training import VTClipTrainer, check_features
from models.losses import vt_clip_loss
from models.vt_clip import load_vt_clip
from models.weights import weights_sha256
from tests.conftest import ROOT
from tests.processes import LAUNCHER, run

CONFIG = str(ROOT / "configs/vt_clip.yaml")


@pytest.fixture
def flags(mini_root):
    """Flags that train from the features of mini VideoXum."""
    return [
        *("--config", CONFIG, "--ann_root", str(mini_root / "anno"), "--clip", str(mini_root / "vt_clip.pth")),
        *("--vision_root", str(mini_root / "feat/vt_clipscore"), "--device", "cpu", "--num_workers", "0"),
        *("--log_freq", "1", "--init_lr", "1e-3"),
    ]


def log_of(folder, kind):
    return [e for e in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if e["type"] == kind]


def test_loss_equals_one_term_at_a_time():
    torch.manual_seed(0)
    N, C, scale = 5, 16, torch.tensor(7.0)
    keyframes, others, texts = torch.randn(3, N, C).double()
    has_others = torch.tensor([1.0, 1, 0, 1, 1])

    def cos(a, b):
        return float(a @ b / a.norm() / b.norm())

    terms = []
    for i in range(N):
        candidates = [cos(texts[i], keyframes[j]) for j in range(N)]
        terms.append(-torch.log_softmax(torch.tensor([cos(keyframes[i], t) for t in texts]) * scale, 0)[i])
        if has_others[i]:
            mixed = [others[i] * (1 - 0.1 * r) + keyframes[i] * 0.1 * r for r in range(6)]
            candidates += [cos(texts[i], m) for m in mixed]
        terms.append(-torch.log_softmax(torch.tensor(candidates) * scale, 0)[i])
    loss, right = vt_clip_loss(keyframes, others, has_others, texts, scale)
    assert loss.item() == pytest.approx(sum(terms).item() / (2 * N), rel=1e-6)
    best = [max(range(N), key=lambda j: cos(texts[i], keyframes[j])) == i for i in range(N)]
    assert right[0].item() == pytest.approx(np.mean(best))


def test_gradients_are_finite_where_a_video_has_no_other_frames():
    keyframes, texts = torch.randn(2, 3, 8, requires_grad=True).unbind()
    others, scale = torch.zeros(3, 8, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    loss, right = vt_clip_loss(keyframes, others, torch.zeros(3), texts, scale)
    loss.backward()
    assert others.grad.abs().max() == 0 and right[1] == 1
    cosines = F.normalize(texts.detach(), dim=-1) @ F.normalize(keyframes.detach(), dim=-1).T
    plain = torch.tensor(2.0, requires_grad=True)
    targets = torch.arange(3)
    F.cross_entropy(plain * cosines, targets).add(F.cross_entropy(plain * cosines.T, targets)).div(2).backward()
    assert scale.grad.item() == pytest.approx(plain.grad.item(), rel=1e-5)


def test_padded_texts_equal_texts_alone(mini_root):
    clip = load_vt_clip(mini_root / "vt_clip.pth")
    texts = ["a dog", "a red circle bounces then a blue square spins", "word " * 120, "word " * 300, ""]
    with torch.no_grad():
        assert torch.allclose(clip.encode_text_padded(texts), clip.encode_text(texts), atol=1e-5)


def test_what_is_drawn_hangs_on_seed_and_epoch(mini_root):
    root = dict(vision_root=mini_root / "feat/vt_clipscore")
    data = Pairs(mini_root / "anno/train_videoxum.json", seed=1, **root)
    again = Pairs(mini_root / "anno/train_videoxum.json", seed=1, **root)
    first = [data[i, 0][0] for i in range(10)]
    assert all(torch.equal(a, again[i, 0][0]) for i, a in enumerate(first))
    assert any(not torch.equal(a, data[i, 1][0]) for i, a in enumerate(first))
    record, features = data.records[3], np.load(root["vision_root"] / f"{data.records[3].video_id}.npz")["vision"]
    keyframes, others, has_others, *_ = data[3, 0]
    rows = [
        row for row in record.vsum_onehot.astype(bool) if np.allclose(features[row].mean(0), keyframes[0], atol=1e-5)
    ]
    assert rows and has_others
    assert np.allclose(features[~rows[0]].mean(0), others[0], atol=1e-5)


@pytest.mark.parametrize("labels", [[[1, 1]] * 10, [[0, 0]] * 10, [[1]] * 10])
def test_a_video_without_other_frames_or_key_frames(tmp_path, labels):
    entry = dict(video_id="v", duration=2.0, tsum=["a dog."], vsum_onehot=labels)
    (tmp_path / "anno.json").write_text(json.dumps([entry]))
    features = np.arange(8, dtype=np.float32).reshape(2, 4)[: len(labels[0])]
    np.savez(tmp_path / "v.npz", vision=features)
    keyframes, others, has_others, text, _ = Pairs(tmp_path / "anno.json", seed=0, vision_root=tmp_path)[0, 0]
    assert np.allclose(keyframes[0], features.mean(0)) and not has_others and not others.any() and text == "a dog"


def test_from_features(flags, mini_root, mini_videos, tmp_path):
    """It learns, only what it should, and what it saves makes the features that it was trained to make."""
    out = tmp_path / "out"
    train_vt_clip.main([*flags, "--batch_size", "16", "--max_epoch", "6", "--output_dir", str(out)])
    losses = [entry["loss"] for entry in log_of(out, "step")]
    assert len(losses) == 12 and np.mean(losses[-2:]) < 0.8 * np.mean(losses[:2])
    assert len(log_of(out, "validation")) == 6
    before, after = load_vt_clip(mini_root / "vt_clip.pth"), load_vt_clip(out / "vt_clip.pth")
    for (name, ours), theirs in zip(after.clip.named_parameters(), before.clip.parameters()):
        # Tokens that no caption has stay, but for weight decay.
        frozen = name.startswith("visual.") and name != "visual.proj"
        assert torch.equal(ours, theirs) == frozen, name

    state = torch.load(out / "checkpoint.pth", weights_only=True)["model"]
    images = torch.randn(2, 3, before.image_size, before.image_size)
    with torch.no_grad():
        expected = before.encode_image(images) @ state["projection"]
        assert torch.allclose(after.encode_image(images), expected, atol=1e-4)


def test_a_resumed_run_ends_with_the_same_bytes(flags, tmp_path, monkeypatch):
    whole = [*flags, "--batch_size", "16", "--max_epoch", "2"]
    train_vt_clip.main([*whole, "--output_dir", str(tmp_path / "whole")])
    half = tmp_path / "half"
    calls, validate = [], VTClipTrainer.validate

    def interrupted_in_the_second(trainer):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return validate(trainer)

    monkeypatch.setattr(VTClipTrainer, "validate", interrupted_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        train_vt_clip.main([*whole, "--output_dir", str(half)])
    monkeypatch.undo()
    train_vt_clip.main([*whole, "--output_dir", str(half), "--resume", str(half / "checkpoint.pth")])
    ours, theirs = (torch.load(tmp_path / n / "vt_clip.pth", weights_only=True)["model"] for n in ("half", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_two_processes_contrast_all_videos(flags, tmp_path):
    """Losses and validation of 2 x 8 videos equal those of 1 x 16: the gradients of the gathered features too."""
    train_vt_clip.main([*flags, "--batch_size", "16", "--max_epoch", "2", "--output_dir", str(tmp_path / "one")])
    words = [*LAUNCHER, "--nproc_per_node=2", str(ROOT / "train_vt_clip.py"), *flags, "--batch_size", "8"]
    status, shown = run([*words, "--max_epoch", "2", "--output_dir", tmp_path / "two"], ROOT)
    assert status == 0, shown
    for kind in ("step", "validation"):
        one, two = log_of(tmp_path / "one", kind), log_of(tmp_path / "two", kind)
        assert len(one) == len(two) > 1
        assert [e["loss"] for e in one] == pytest.approx([e["loss"] for e in two], rel=2e-4)


def test_from_videos(mini_videos, tmp_path):
    """The image tower learns too."""
    clip = str(mini_videos / "vt_clip.pth")
    words = ["--config", CONFIG, "--ann_root", str(mini_videos / "anno"), "--videos", str(mini_videos / "videos")]
    words += ["--clip", clip, "--frames", "2", "--device", "cpu", "--num_workers", "1", "--max_epoch", "2"]
    train_vt_clip.main([*words, "--batch_size", "4", "--output_dir", str(tmp_path), "--init_lr", "1e-4"])
    before, after = load_vt_clip(clip), load_vt_clip(tmp_path / "vt_clip.pth")
    changed = [n for (n, a), b in zip(after.clip.named_parameters(), before.clip.parameters()) if not torch.equal(a, b)]
    assert {name for name, _ in before.clip.named_parameters()} == set(changed)


def test_features_of_another_clip_are_an_error(flags, mini_root, tmp_path, caplog):
    """Features say what they were made with; those that do not say are used with a warning."""
    clip = load_vt_clip(mini_root / "vt_clip.pth")
    check_features(mini_root / "feat/vt_clipscore", clip)
    assert "the CLIP that made these features is unknown" in caplog.text
    record = tmp_path / "extraction.json"
    record.write_text(json.dumps(dict(weights_sha256=weights_sha256(clip.clip))))
    check_features(tmp_path, clip)
    record.write_text("[")
    with pytest.raises(ValueError, match=r"json: weights_sha256: found None, expected "):
        check_features(tmp_path, clip)
    record.write_text(json.dumps(dict(weights_sha256="0")))
    with pytest.raises(
        ValueError, match=r"extraction.json: weights_sha256: found 0, expected .*not of the CLIP to start"
    ):
        check_features(tmp_path, clip)


def test_pixels_are_those_of_extraction(mini_videos, tmp_path):
    """The mean feature of the drawn key-frames equals that of the extracted rows."""
    clip = load_vt_clip(mini_videos / "vt_clip.pth")
    record_file = mini_videos / "anno/val_videoxum.json"
    words = ["--videos", str(mini_videos / "videos"), "--out", str(tmp_path), "--blip", "", "--device", "cpu"]
    words += ["--annotations", str(record_file), "--num_workers", "0"]
    extract_features.main([*words, "--vt_clip", str(mini_videos / "vt_clip.pth")])
    from data.video.files import find_videos
    from models.frame_encoders import clip_frame_encoder, normalize

    encoder = clip_frame_encoder(clip)
    pairs = Pairs(
        record_file, seed=0, videos=find_videos([mini_videos / "videos"]), transform=encoder.transform, frames=4
    )
    keyframes, others, *_ = pairs[0, 0]
    rows = np.load(tmp_path / f"vt_clipscore/{pairs.records[0].video_id}.npz")["vision"]
    with torch.no_grad():
        for pixels in (*keyframes, *others):
            feature = clip.encode_image(normalize(pixels[None], encoder.transform)).numpy()
            assert np.abs(rows - feature).max(1).min() < 1e-4


def test_mistakes(flags, tmp_path, monkeypatch, mini_root):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("fake.pt", "w") as archive:
        archive.writestr("archive/constants.pkl", b"")
    for words, message in (
        (["--clip", "ViT-Z"], "ViT-Z: clip: found no such file, expected one or a name: ViT-B-16, ViT-B-32"),
        (["--clip", "ViT-B-32"], "ViT-B-32: clip: cannot be had from open_clip's hub"),
        (["--clip", "fake.pt"], "fake.pt: checkpoint: found a TorchScript archive"),
        (["--vision_root", "none"], "none: VT-CLIP features: no such folder"),
        (["--videos", str(mini_root)], "videos: found none"),
        (["--batch_size", "1"], "batch_size: found 1, expected at least 2"),
        (["--frame", "1"], "--frame: unknown flag; did you mean --frames?"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            train_vt_clip.main([*flags, "--output_dir", "out", *words])
    assert not list(tmp_path.rglob("*.pth"))
