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
    longer = [F.pad(tensor, (0, 40)) for tensor in keyframes]
    assert cross_entropy_keyframe_loss(*longer).item() == pytest.approx(expected.item() / 2, rel=1e-6)


def test_l2_equals_explicit_loops(keyframes):
    saliency, labels, mask = keyframes
    total = count = 0.0
    for b in range(3):
        for t in range(int(mask[b].sum())):
            for r in range(10):
                total += (saliency[b, t].sigmoid() - labels[b, r, t]).item() ** 2
                count += 1
    assert l2_keyframe_loss(saliency, labels, mask).item() == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("loss", [cross_entropy_keyframe_loss, l2_keyframe_loss])
def test_graded_labels_of_different_numbers_of_annotators(keyframes, loss):
    """Rows of NaN are annotators that a video does not have; graded labels enter with their own squares."""
    saliency, _, mask = keyframes
    generator = torch.Generator().manual_seed(3)
    rows = [torch.rand(R, 40, generator=generator) for R in (3, 1, 2)]
    labels = torch.stack([F.pad(video, (0, 0, 0, 3 - len(video)), value=torch.nan) for video in rows])
    total = count = 0.0
    for b, video in enumerate(rows):
        for t in range(int(mask[b].sum())):
            targets, logits = video[:, t].double(), saliency[b, t].double().expand(len(video))
            if loss is l2_keyframe_loss:
                total += (logits.sigmoid() - targets).square().mean().item()
            else:
                total += F.binary_cross_entropy_with_logits(logits, targets).item()
            count += 1
    count = count if loss is l2_keyframe_loss else mask.numel()  # QUIRK-1
    assert loss(saliency, labels, mask).item() == pytest.approx(total / count, rel=1e-5)
    saliency.requires_grad_()
    loss(saliency, labels, mask).backward()
    assert saliency.grad.isfinite().all()


@pytest.fixture
def caption():
    """States of all positions, an output layer over 50 tokens, targets, and a mask of the scored positions."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, 50, (3, 12), generator=generator)
    attention = torch.arange(12) < torch.tensor([12, 8, 6])[:, None]
    targets, scored = next_token_targets(ids, attention, prompt_length=4)
    draw = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((33, 16), (50, 16), (50,)))
    states, weight, bias = (tensor.requires_grad_() for tensor in draw)
    return states, weight, bias, targets.flatten(), scored.flatten()


def reference_loss(states, weight, bias, targets, scored, scope):
    """Compute both terms of the loss from the full logits."""
    log_probs = F.linear(states, weight, bias).log_softmax(-1)
    likelihood = -log_probs.gather(-1, targets[:, None])[scored].mean()
    smoothing = -(log_probs[scored] if scope == "scored" else log_probs).mean()
    return 0.9 * likelihood + 0.1 * smoothing


def test_targets_exclude_prompt_and_padding(caption):
    *_, targets, scored = caption
    assert targets.shape == scored.shape == (33,)
    assert scored.view(3, 11).sum(1).tolist() == [8, 4, 2]
    assert not scored.view(3, 11)[:, :3].any() and scored[3:11].all()


def test_scored_smoothing_equals_torch(caption):
    states, weight, bias, targets, scored = caption
    logits = F.linear(states, weight, bias)
    expected = F.cross_entropy(logits, targets.masked_fill(~scored, -100), label_smoothing=0.1)
    assert caption_loss(*caption, "scored").item() == pytest.approx(expected.item(), rel=1e-12)


def test_published_smoothing_averages_over_all_positions(caption):
    """QUIRK-2: the smoothing term is averaged over padding and prompt too."""
    assert caption_loss(*caption).item() == pytest.approx(reference_loss(*caption, "published").item(), rel=1e-12)
    assert caption_loss(*caption).item() != pytest.approx(caption_loss(*caption, "scored").item(), rel=1e-4)


@pytest.mark.parametrize("scope", ["published", "scored"])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_chunk_size_does_not_change_loss_or_gradients(caption, scope, rows, monkeypatch):
    monkeypatch.setattr(losses, "MAX_LOGITS", rows * 50)
    parameters = caption[:3]
    expected = torch.autograd.grad(3.0 * reference_loss(*caption, scope), parameters)
    actual = torch.autograd.grad(3.0 * caption_loss(*caption, scope), parameters)
    for gradient, expected_gradient in zip(actual, expected):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        assert caption_loss(*caption, scope).item() == pytest.approx(reference_loss(*caption, scope).item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_small_gradients(caption, dtype):
    """With many positions and a large vocabulary, single gradients underflow in float16."""
    generator = torch.Generator().manual_seed(3)
    V, num_positions = 3000, 600
    states, weight = (
        torch.randn(*shape, generator=generator).requires_grad_() for shape in ((num_positions, 8), (V, 8))
    )
    arguments = (
        states,
        weight,
        torch.zeros(V, requires_grad=True),
        torch.arange(num_positions),
        torch.arange(num_positions) % 2 == 0,
    )
    expected = torch.autograd.grad(reference_loss(*arguments, "published"), arguments[:3])
    with torch.autocast("cpu", dtype):
        loss = caption_loss(*arguments)
    assert loss.dtype == torch.float32
    for gradient, expected_gradient in zip(torch.autograd.grad(loss, arguments[:3]), expected):
        assert (gradient - expected_gradient).norm() < 0.02 * expected_gradient.norm()


def test_float16_does_not_overflow_for_a_frequent_token():
    """The sum of a token's gradients over many positions, scaled as they are, exceeds float16's maximum."""
    generator = torch.Generator().manual_seed(4)
    num_positions, D = 8192, 4
    arguments = (
        (4 + torch.randn(num_positions, D, generator=generator)).requires_grad_(),
        torch.randn(20, D, generator=generator).mul_(0.01).requires_grad_(),
        torch.zeros(20, requires_grad=True),
        torch.zeros(num_positions, dtype=torch.long),
        torch.ones(num_positions, dtype=torch.bool),
    )
    expected = torch.autograd.grad(reference_loss(*arguments, "scored"), arguments[:3])
    with torch.autocast("cpu", torch.float16):
        loss = caption_loss(*arguments, "scored")
    for gradient, expected_gradient in zip(torch.autograd.grad(loss, arguments[:3]), expected):
        assert (gradient - expected_gradient).norm() < 0.02 * expected_gradient.norm()


def test_gradients_can_be_computed_twice(caption):
    """As for gradient norms of each loss, before the backward pass of their sum."""
    loss = caption_loss(*caption)
    first, second = (torch.autograd.grad(loss, caption[:3], retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_full_logits_are_not_allocated(caption, monkeypatch):
    sizes = []
    monkeypatch.setattr(losses, "MAX_LOGITS", 4 * 50)

    class SizeRecorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(
                tensor.numel()
                for tensor in (out if isinstance(out, (tuple, list)) else [out])
                if torch.is_tensor(tensor)
            )
            return out

    with SizeRecorder():
        caption_loss(*caption).backward()
    assert max(sizes) == 50 * 16  # the weight's gradient; the full logits have 33 * 50
