import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from models import losses
from models.losses import caption_loss, cross_entropy_keyframe_loss, l2_keyframe_loss, next_token_targets


@pytest.fixture
def keyframes(random_videos):
    _, mask, labels = random_videos([40, 17, 1])
    return torch.randn(mask.shape, generator=torch.Generator().manual_seed(1)), labels, mask


def test_cross_entropy_is_the_mean_over_annotators_and_padding(keyframes):
    """QUIRK-1: the divisor is B·R·T."""
    saliency, labels, mask = keyframes
    expected = F.binary_cross_entropy_with_logits(
        saliency[:, None].expand_as(labels), labels, weight=mask[:, None].expand_as(labels)
    )
    assert cross_entropy_keyframe_loss(saliency, labels, mask).item() == pytest.approx(expected.item(), rel=1e-6)
    longer = [F.pad(t, (0, 40)) for t in keyframes]
    assert cross_entropy_keyframe_loss(*longer).item() == pytest.approx(expected.item() / 2, rel=1e-6)


def test_l2_by_hand(keyframes):
    saliency, labels, mask = keyframes
    total = count = 0.0
    for b in range(3):
        for t in range(int(mask[b].sum())):
            for r in range(10):
                total += (saliency[b, t].sigmoid() - labels[b, r, t]).item() ** 2
                count += 1
    assert l2_keyframe_loss(saliency, labels, mask).item() == pytest.approx(total / count, rel=1e-5)


@pytest.fixture
def caption():
    """States of all places, an output layer over 50 words, targets, and which are scored."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, 50, (3, 12), generator=generator)
    attention = torch.arange(12) < torch.tensor([12, 8, 6])[:, None]
    targets, scored = next_token_targets(ids, attention, prompt_length=4)
    draw = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((33, 16), (50, 16), (50,)))
    states, weight, bias = (x.requires_grad_() for x in draw)
    return states, weight, bias, targets.flatten(), scored.flatten()


def by_the_book(states, weight, bias, targets, scored, scope):
    """The two terms from all scores at once."""
    log_probs = F.linear(states, weight, bias).log_softmax(-1)
    likelihood = -log_probs.gather(-1, targets[:, None])[scored].mean()
    smoothing = -(log_probs[scored] if scope == "scored" else log_probs).mean()
    return 0.9 * likelihood + 0.1 * smoothing


def test_targets_leave_out_prompt_and_padding(caption):
    *_, targets, scored = caption
    assert targets.shape == scored.shape == (33,)
    assert scored.view(3, 11).sum(1).tolist() == [8, 4, 2]
    assert not scored.view(3, 11)[:, :3].any() and scored[3:11].all()


def test_scored_smoothing_is_todays_torch(caption):
    states, weight, bias, targets, scored = caption
    logits = F.linear(states, weight, bias)
    expected = F.cross_entropy(logits, targets.masked_fill(~scored, -100), label_smoothing=0.1)
    assert caption_loss(*caption, "scored").item() == pytest.approx(expected.item(), rel=1e-12)


def test_published_smoothing_counts_every_place(caption):
    """QUIRK-2: the smoothing term is averaged over padding and prompt too."""
    assert caption_loss(*caption).item() == pytest.approx(by_the_book(*caption, "published").item(), rel=1e-12)
    assert caption_loss(*caption).item() != pytest.approx(caption_loss(*caption, "scored").item(), rel=1e-4)


@pytest.mark.parametrize("scope", ["published", "scored"])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_chunks_change_neither_loss_nor_gradients(caption, scope, rows, monkeypatch):
    monkeypatch.setattr(losses, "MAX_LOGITS", rows * 50)
    learnt = caption[:3]
    expected = torch.autograd.grad(3.0 * by_the_book(*caption, scope), learnt)
    found = torch.autograd.grad(3.0 * caption_loss(*caption, scope), learnt)
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        assert caption_loss(*caption, scope).item() == pytest.approx(by_the_book(*caption, scope).item(), rel=1e-12)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_small_gradients(caption, low):
    """Of many places over a large vocabulary the single gradients are below what float16 can hold."""
    generator = torch.Generator().manual_seed(3)
    V, n = 3000, 600
    states, weight = (torch.randn(*shape, generator=generator).requires_grad_() for shape in ((n, 8), (V, 8)))
    arguments = states, weight, torch.zeros(V, requires_grad=True), torch.arange(n), torch.arange(n) % 2 == 0
    expected = torch.autograd.grad(by_the_book(*arguments, "published"), arguments[:3])
    with torch.autocast("cpu", low):
        loss = caption_loss(*arguments)
    assert loss.dtype == torch.float32
    for ours, theirs in zip(torch.autograd.grad(loss, arguments[:3]), expected):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_no_tensor_of_all_scores_is_made(caption, monkeypatch):
    sizes = []
    monkeypatch.setattr(losses, "MAX_LOGITS", 4 * 50)

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in (out if isinstance(out, (tuple, list)) else [out]) if torch.is_tensor(x))
            return out

    with Watch():
        caption_loss(*caption).backward()
    assert max(sizes) == 50 * 16  # the weight's gradient; all scores would be 33 * 50
