"""Fine-tune CLIP into VT-CLIP: data, model, optimizer and validation joined in a trainer."""

import functools
import logging
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from data.feature_writer import PROVENANCE_FILE, read_provenance
from data.loaders import EvalBatches, TrainBatches, make_loader
from data.video.files import find_videos
from data.vt_clip_pairs import InEpoch, PairBatch, Pairs, collate_pairs
from engine.config import VTClipConfig
from engine.trainer import Trainer
from models.frame_encoders import clip_frame_encoder
from models.losses import vt_clip_loss
from models.vt_clip import VTClip, find_clip
from models.vt_clip_finetuner import VTClipFineTuner
from models.weights import weights_sha256, write_weights
from utils import distributed
from utils.device import autocast, gradient_scaler
from utils.distributed import DistContext
from utils.files import make_folder, remove_leftovers
from utils.log import setup_logging
from utils.seed import seed_everything
from utils.settings import write_settings

logger = logging.getLogger(__name__)

MAX_LOGIT_SCALE = math.log(100.0)  # CLIP's limit of the cosines' factor


class VTClipTrainer(Trainer):
    """Trains VT-CLIP; each epoch ends with a validation and the newest weights on the disk. See `Trainer`.

    Args:
        val_loader: of this process's validation batches.
    """

    config: VTClipConfig
    model: VTClipFineTuner
    loss_names = ("loss", "finds_video", "beats_hard")

    def __init__(self, *args, val_loader: DataLoader, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.val_loader = val_loader
        precision = self.config.precision
        use_bf16 = precision == "bf16" or (precision == "auto" and self.context.device.type == "cuda")
        self.precision = "bf16" if use_bf16 else "fp32"

    def compute_losses(self, batch: PairBatch) -> list[torch.Tensor]:
        """Loss over the videos of all processes, and how often a text prefers its video; see `vt_clip_loss`."""
        *features, scale = self._encode(self.ddp_model, batch)
        gathered = [distributed.all_gather_with_grad(part, self.context) for part in features]
        loss, accuracies = vt_clip_loss(*gathered, scale)
        return [loss, *accuracies]

    def _encode(self, model: torch.nn.Module, batch: PairBatch) -> tuple[torch.Tensor, ...]:
        """Key-frames, others, whether there are others, texts: (N, …) each; the factor of the cosines."""
        with autocast(self.precision, self.context.device):
            keyframes, others, texts, scale = model(batch.keyframes, batch.others, batch.texts)
        return keyframes, others, batch.has_others.float(), texts, scale

    @torch.no_grad()
    def after_step(self) -> None:
        self.model.vt_clip.clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    def after_epoch(self) -> None:
        epoch = self.state.epoch - 1
        scores = self.validate()
        if scores is not None:
            self.log.write(type="validation", epoch=epoch, **scores)
            shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
            logger.info("epoch %d: validation: %s", epoch, shown)
            write_weights(self.output_dir / "vt_clip.pth", self.model.weights(), self.config.as_dict())
        self.save()

    @torch.no_grad()
    def validate(self) -> dict[str, float] | None:
        """Loss and accuracies over the whole validation split; None on all processes but the first."""
        self.model.eval()
        parts: list[list[torch.Tensor]] = []
        for batch in self.val_loader:
            *features, scale = self._encode(self.model, batch.to(self.context.device))
            parts.append([part.cpu() for part in features])
        gathered = distributed.gather_objects(parts, self.context)
        if gathered is None:
            return None
        rows = [row for rows_of_rank in gathered for row in rows_of_rank]
        loss, accuracies = vt_clip_loss(*(torch.cat(part) for part in zip(*rows)), scale.cpu())
        return dict(zip(self.loss_names, [loss.item(), *accuracies.tolist()]))


def check_features(vision_root: str, vt_clip: VTClip) -> None:
    """Check that features were made with the CLIP that training starts from.

    Raises:
        ValueError: their provenance says that they were not.
    """
    record = pathlib.Path(vision_root, PROVENANCE_FILE)
    if not record.is_file():
        logger.warning("%s: no such file: the CLIP that made these features is unknown", record)
        return
    recorded, expected = read_provenance(record).get("weights_sha256"), weights_sha256(vt_clip.clip)
    if recorded != expected:
        raise ValueError(
            f"{record}: weights_sha256: found {recorded}, expected {expected}: these features are not of the CLIP to "
            "start from; make them with extract_features.py --vt_clip and the same CLIP"
        )


def build_loaders(config: VTClipConfig, context: DistContext, vt_clip: VTClip) -> tuple[DataLoader, DataLoader]:
    """Loaders of the training and the validation split."""
    source: dict[str, Any] = dict(vision_root=config.vision_root, width=vt_clip.width)
    if config.videos:
        transform = clip_frame_encoder(vt_clip).transform
        source = dict(videos=find_videos([config.videos]), transform=transform, frames=config.frames)
    train, val = (
        Pairs(pathlib.Path(config.ann_root, f"{split}_videoxum.json"), seed=config.seed, **source)
        for split in ("train", "val")
    )
    ranks = dict(rank=context.rank, world_size=context.world_size)
    lengths = [record.num_frames for record in train.records]
    make = functools.partial(
        make_loader,
        collate_fn=collate_pairs,
        pin_memory=context.device.type == "cuda",
        num_workers=config.num_workers,
    )
    return (
        make(train, InEpoch(TrainBatches(lengths, config.batch_size, seed=config.seed, **ranks))),
        make(val, InEpoch(EvalBatches([0] * len(val), config.batch_size, alone_above=0, **ranks))),
    )


def build_trainer(config: VTClipConfig, notes: Sequence[str] = ()) -> VTClipTrainer:
    """Set up a training run, resumed or from `config.clip`: `fit` runs it.

    Args:
        config: of the run.
        notes: lines about the configuration for the log.
    Raises:
        FileNotFoundError, ValueError: data or weights are missing or bad, or a checkpoint does not fit the run.
    """
    context = distributed.init(config.device)
    output_dir = make_folder(config.output_dir, "output_dir")
    setup_logging(context.is_main, output_dir / "train.log")
    if context.is_main:
        remove_leftovers(output_dir)
    for note in notes:
        logger.info("%s", note)
    seed_everything(config.seed + context.rank)
    with distributed.local_main_first(context):
        vt_clip = find_clip(config.clip)
    if not config.videos:
        check_features(config.vision_root, vt_clip)
    loader, val_loader = build_loaders(config, context, vt_clip)
    model = VTClipFineTuner(vt_clip, bool(config.videos)).to(context.device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    logit_scale = vt_clip.clip.logit_scale
    groups = [dict(params=[p for p in trained if p is not logit_scale]), dict(params=[logit_scale], weight_decay=0.0)]
    trainer = VTClipTrainer(
        config,
        context,
        output_dir,
        model=model,
        loader=loader,
        optimizer=torch.optim.AdamW(groups, lr=config.init_lr, weight_decay=config.weight_decay),
        scaler=gradient_scaler("fp32", context.device),
        data=loader.dataset.fingerprint(),
        val_loader=val_loader,
    )
    trainer.state = trainer.checkpointer.resume(config.resume) or trainer.state
    if context.is_main:
        write_settings(config, output_dir / "config.yaml")
    logger.info(
        "VT-CLIP: %.1f M of %.1f M parameters are trained, %d videos, %d batches per epoch",
        sum(p.numel() for p in trained) / 1e6,
        sum(p.numel() for p in model.parameters()) / 1e6,
        len(loader.dataset),
        len(loader),
    )
    return trainer
