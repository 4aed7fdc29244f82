import pytest
import torch
import torch.nn.functional as F

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
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, 50, (3, 12), generator=generator)
    attention = torch.arange(12) < torch.tensor([12, 8, 6])[:, None]
    targets, scored = next_token_targets(ids, attention, prompt_length=4)
    return torch.randn(3, 11, 50, generator=generator), targets, scored


def test_targets_leave_out_prompt_and_padding(caption):
    _, targets, scored = caption
    assert targets.shape == scored.shape == (3, 11)
    assert scored.sum(1).tolist() == [8, 4, 2]
    assert not scored[:, :3].any() and scored[0, 3:].all()


def test_scored_smoothing_is_todays_torch(caption):
    logits, targets, scored = caption
    expected = F.cross_entropy(logits.flatten(0, 1), targets.masked_fill(~scored, -100).flatten(), label_smoothing=0.1)
    assert caption_loss(*caption, "scored").item() == pytest.approx(expected.item(), rel=1e-6)


def test_published_smoothing_counts_every_place(caption):
    """QUIRK-2: the smoothing term is averaged over padding and prompt too."""
    logits, targets, scored = caption
    log_probs = logits.log_softmax(-1)
    likelihood = -log_probs.gather(-1, targets[..., None])[..., 0][scored].mean()
    expected = 0.9 * likelihood + 0.1 * -log_probs.mean()
    assert caption_loss(*caption).item() == pytest.approx(expected.item(), rel=1e-6)
    assert caption_loss(*caption).item() != pytest.approx(caption_loss(*caption, "scored").item(), rel=1e-4)
