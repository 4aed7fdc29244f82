"""Fine-tune CLIP into VT-CLIP: setup of data, model and optimizer, and the trainer with its validation."""

import logging
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from data.annotations import read_subset
from data.feature_writer import PROVENANCE_FILE, read_provenance
from data.loaders import EvalBatchSampler, TrainBatchSampler, make_loader
from data.video.files import find_videos
from data.vt_clip_dataset import EpochIndexSampler, VTClipBatch, VTClipDataset, collate_vt_clip
from engine.checks import check_vt_clip_training
from engine.config import VTClipConfig
from engine.setup import annotation_file, init_run
from engine.trainer import Trainer, TrainingSetup
from metrics.keyframes import select_top_rows
from models.frame_encoders import clip_frame_encoder
from models.losses import vt_clip_loss
from models.vt_clip import VTClip, load_clip
from models.vt_clip_finetuner import VTClipFineTuner
from models.weights import CheckpointMetadata, hash_weights, write_weights
from utils import distributed
from utils.device import autocast, gradient_scaler, resolve_precision
from utils.distributed import DistContext
from utils.precision import PrecisionName
from utils.settings import write_settings

logger = logging.getLogger(__name__)

MAX_LOGIT_SCALE = math.log(100.0)  # CLIP's limit of the scale of the cosines


class VTClipTrainer(Trainer):
    """Trains VT-CLIP; after each epoch, validates and writes `vt_clip.pth`.

    Args:
        config: settings of the run.
        setup: see `Trainer`.
        val_loader: loader of this process's validation batches.
        precision: autocast precision.
    """

    config: VTClipConfig
    model: VTClipFineTuner
    loss_names = ("loss", "finds_video", "beats_hard")

    def __init__(
        self, config: VTClipConfig, setup: TrainingSetup, val_loader: DataLoader, precision: PrecisionName
    ) -> None:
        super().__init__(config, setup)
        self.val_loader = val_loader
        self.precision = precision

    def compute_losses(self, batch: VTClipBatch) -> list[torch.Tensor]:
        """Compute the loss over the videos of all processes, and the two accuracies; see `vt_clip_loss`."""
        features, scale = self._encode(self.ddp_model, batch)
        keyframes, others, has_others, texts = (
            distributed.all_gather_with_grad(feature, self.context) for feature in features
        )
        loss, accuracies = vt_clip_loss(keyframes, others, has_others, texts, scale)
        return [loss, *accuracies]

    def _encode(self, model: torch.nn.Module, batch: VTClipBatch) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Encode a batch: the first four arguments of `vt_clip_loss`, (N, …) each, and the scale of the cosines."""
        with autocast(self.precision, self.context.device):
            keyframes, others, texts, scale = model(batch.keyframes, batch.others, batch.texts)
        return [keyframes, others, batch.has_others.float(), texts], scale

    @torch.no_grad()
    def after_step(self) -> None:
        self.model.vt_clip.clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)

    def after_epoch(self) -> None:
        epoch = self.state.epoch - 1
        scores = self.validate()
        if scores is not None:
            self.log.write(type="validation", epoch=epoch, **scores)
            shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
            logger.info("epoch %d: validation: %s", epoch + 1, shown)
            write_weights(
                self.output_dir / "vt_clip.pth", self.model.weights(), CheckpointMetadata(self.config.as_dict())
            )
        self.save()

    @torch.no_grad()
    def validate(self) -> dict[str, float] | None:
        """Compute loss and accuracies over the validation split; None on all processes but the first."""
        self.model.eval()
        batches: list[list[torch.Tensor]] = []
        for batch in self.val_loader:
            features, scale = self._encode(self.model, batch.to(self.context.device))
            batches.append([feature.cpu() for feature in features])
        gathered = distributed.gather_objects(batches, self.context)
        if gathered is None:
            return None
        all_batches = [features for batches_of_rank in gathered for features in batches_of_rank]
        keyframes, others, has_others, texts = map(torch.cat, zip(*all_batches))
        loss, accuracies = vt_clip_loss(keyframes, others, has_others, texts, scale.cpu())
        return dict(zip(self.loss_names, [loss.item(), *accuracies.tolist()]))


def require_same_clip(vision_root: str, vt_clip: VTClip) -> None:
    """Check by their provenance that features were extracted with the CLIP that training starts from.

    Raises:
        ValueError: they were not.
    """
    path = pathlib.Path(vision_root, PROVENANCE_FILE)
    if not path.is_file():
        logger.warning("%s: no such file: the CLIP of these features is unknown", path)
        return
    recorded, expected = read_provenance(path).get("weights_sha256"), hash_weights(vt_clip.clip)
    if recorded != expected:
        raise ValueError(
            f"{path}: weights_sha256: found {recorded}, expected {expected}: these features are of another CLIP; "
            "extract them with extract_features.py --vt_clip and the CLIP that training starts from"
        )


def build_datasets(config: VTClipConfig, vt_clip: VTClip) -> tuple[VTClipDataset, VTClipDataset]:
    """Open the training and the validation split."""
    videos = find_videos([config.videos]) if config.videos else None
    subset = read_subset(config.subset) if config.subset else None
    train, val = (
        VTClipDataset(
            annotation_file(config, split),
            dataset=config.dataset,
            seed=config.seed,
            select_keyframes=select_top_rows,
            subset=subset,
            vision_root=config.vision_root,
            width=vt_clip.width,
            videos=videos,
            transform=clip_frame_encoder(vt_clip).transform,
            frames=config.frames,
        )
        for split in ("train", "val")
    )
    return train, val


def build_loader(
    config: VTClipConfig, context: DistContext, dataset: VTClipDataset, sampler: EpochIndexSampler
) -> DataLoader:
    """Build the loader of a split."""
    return make_loader(
        dataset,
        sampler,
        num_workers=config.num_workers,
        pin_memory=context.device.type == "cuda",
        collate_fn=collate_vt_clip,
    )


def build_samplers(
    config: VTClipConfig, context: DistContext, train: VTClipDataset, val: VTClipDataset
) -> tuple[EpochIndexSampler, EpochIndexSampler]:
    """Build the samplers of this process's training and validation batches."""
    train_batches = TrainBatchSampler(
        [0] * len(train),
        config.batch_size,
        rank=context.rank,
        world_size=context.world_size,
        seed=config.seed,
    )
    val_batches = EvalBatchSampler(
        [0] * len(val),
        config.batch_size,
        rank=context.rank,
        world_size=context.world_size,
        singleton_threshold=0,
    )
    return EpochIndexSampler(train_batches), EpochIndexSampler(val_batches)


def build_optimizer(config: VTClipConfig, model: VTClipFineTuner) -> torch.optim.AdamW:
    """Build AdamW for the trained parameters, without weight decay for CLIP's `logit_scale`."""
    logit_scale = model.vt_clip.clip.logit_scale
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        dict(params=[(name, p) for name, p in trained if p is not logit_scale]),
        dict(params=[(name, p) for name, p in trained if p is logit_scale], weight_decay=0.0),
    ]
    return torch.optim.AdamW(groups, lr=config.init_lr, weight_decay=config.weight_decay)


def build_vt_clip_trainer(config: VTClipConfig, notes: Sequence[str] = ()) -> VTClipTrainer:
    """Set up a training run, resumed or from `config.clip`; `fit` runs it.

    Args:
        config: settings of the run.
        notes: lines about the configuration for the log.
    Raises:
        FileNotFoundError, ValueError: data or weights are missing or invalid, or a checkpoint does not fit the run.
    """
    check_vt_clip_training(config)
    context = init_run(config, notes, "train.log")
    output_dir = pathlib.Path(config.output_dir)
    precision = resolve_precision(config.precision, context.device)
    with distributed.local_main_first(context):
        vt_clip = load_clip(config.clip)
    if not config.videos:
        require_same_clip(config.vision_root, vt_clip)
    train, val = build_datasets(config, vt_clip)
    sampler, val_sampler = build_samplers(config, context, train, val)
    model = VTClipFineTuner(vt_clip, bool(config.videos)).to(context.device)
    setup = TrainingSetup(
        context=context,
        output_dir=output_dir,
        model=model,
        loader=build_loader(config, context, train, sampler),
        sampler=sampler,
        optimizer=build_optimizer(config, model),
        scaler=gradient_scaler(precision, context.device),
        data_fingerprint=train.fingerprint(),
    )
    trainer = VTClipTrainer(config, setup, build_loader(config, context, val, val_sampler), precision)
    trainer.state = trainer.checkpointer.resume(config.resume, len(sampler)) or trainer.state
    if context.is_main:
        write_settings(config, output_dir / "config.yaml")
    logger.info(
        "VT-CLIP: %.1f M of %.1f M parameters are trained, %d videos, %d batches per epoch",
        sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6,
        sum(p.numel() for p in model.parameters()) / 1e6,
        len(train),
        len(sampler),
    )
    return trainer
