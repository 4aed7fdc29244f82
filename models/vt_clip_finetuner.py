"""VT-CLIP during fine-tuning.

Axes: N videos, n frames of each kind, C width of VT-CLIP's features, S image side.
"""

import torch
from torch import nn

from models.frame_encoders import Normalize, clip_frame_encoder
from models.vt_clip import VTClip


class VTClipFineTuner(nn.Module):
    """The trained part of VT-CLIP, from frozen features or from frames.

    Args:
        vt_clip: model to fine-tune, in place.
        from_videos: train the image tower. Otherwise only a square matrix is trained, which is applied to the extracted
            features; `weights` multiplies it with the tower's projection.
    """

    def __init__(self, vt_clip: VTClip, from_videos: bool) -> None:
        super().__init__()
        self.vt_clip = vt_clip
        self.normalize = Normalize(clip_frame_encoder(vt_clip).transform)
        self.projection = None
        if not from_videos:
            self.projection = nn.Parameter(torch.eye(vt_clip.width))
            vt_clip.clip.visual.requires_grad_(False)

    def forward(self, keyframes: torch.Tensor, others: torch.Tensor, texts: list[str]) -> tuple[torch.Tensor, ...]:
        """Encode N videos and their texts.

        Args:
            keyframes, others: (N, 1, C) float mean features, or (N, n, S, S, 3) uint8 frames.
            texts: N texts.
        Returns:
            (N, C) each of key-frames, other frames and texts, not normalized; () scale of the cosines.
        """
        encoded = [self._pooled(frames) for frames in (keyframes, others)]  # (N, C)
        features = self.vt_clip.encode_text_padded(texts).float()  # (N, C)
        return *encoded, features, self.vt_clip.clip.logit_scale.exp()

    def _pooled(self, frames: torch.Tensor) -> torch.Tensor:
        if self.projection is not None:
            # Half precision would round small differences from the identity.
            with torch.autocast(frames.device.type, enabled=False):
                return frames[:, 0] @ self.projection  # (N, C)
        N, n = frames.shape[:2]
        images = self.normalize(frames.flatten(0, 1))  # (N·n, 3, S, S)
        return self.vt_clip.encode_image(images).float().view(N, n, -1).mean(1)  # (N, C)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the state dict in OpenAI's layout, on the host."""
        state = {name: value.detach().cpu().clone() for name, value in self.vt_clip.clip.state_dict().items()}
        if self.projection is not None:
            state["visual.proj"] = state["visual.proj"] @ self.projection.detach().cpu()
        return state
