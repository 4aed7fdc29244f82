"""Fine-tune CLIP into VT-CLIP, the model behind VT-CLIPScore.

    python -m torch.distributed.run --nproc_per_node=4 train_vt_clip.py --config configs/vt_clip.yaml

From the frozen `vision` features of `extract_features.py --vt_clip CLIP` only the text tower and the projections are
trained; from video files (`--videos DIR`) the image tower too. OUTPUT_DIR/vt_clip.pth is what `load_vt_clip` reads.
"""

import dataclasses
import functools
import logging
import math
import pathlib
import time

import torch
from torch import nn

from data.feature_writer import PROVENANCE_FILE, read_provenance
from data.loaders import EvalBatches, TrainBatches, make_loader
from data.video.files import find_videos
from data.vt_clip_pairs import InEpoch, Pairs, collate_pairs
from engine.checkpoint import Checkpoints, Progress
from engine.config import load_config
from engine.schedule import cosine_lr, set_lr
from models.frame_encoders import clip_frame_encoder, normalize
from models.losses import vt_clip_loss
from models.vt_clip import find_clip
from models.weights import weights_sha256, write_weights
from utils import distributed, interrupt
from utils.files import make_folder, remove_leftovers
from utils.log import JsonLines, progress_bar, run_main, setup_logging
from utils.seed import seed_everything
from utils.settings import Settings, option, write_config

logger = logging.getLogger(__name__)

MAX_LOGIT_SCALE = math.log(100.0)  # CLIP's limit of the cosines' factor


@dataclasses.dataclass(frozen=True)
class VTClipConfig(Settings):
    """Everything a run of this script can be told."""

    ann_root: str = option("dataset/ActivityNet/anno", "folder of {train,val}_videoxum.json", free=True)
    vision_root: str = option(
        "dataset/ActivityNet/clip_feat/vt_clipscore",
        "folder of features made with the CLIP of `clip`; for `videos: ''`",
        free=True,
    )
    videos: str = option("", "folder or .txt list of videos: the image tower is trained too; '' takes the features")
    frames: int = option(8, "key-frames, and as many others, drawn from each video", least=1)
    clip: str = option("ViT-B-16", "CLIP to start from: file or URL, or the name of one of OpenAI's on open_clip's hub")
    resume: str = option(
        "auto",
        "auto goes on from output_dir's own newest checkpoint, if there is one; a checkpoint's path does so too, and "
        "from that one otherwise; '' starts anew",
        free=True,
    )
    init_lr: float = option(1e-5, "learning rate of the first epoch", above=0)
    min_lr: float = option(0.0, "learning rate that the cosine ends at", least=0)
    max_epoch: int = option(10, "epochs", least=1)
    batch_size: int = option(32, "videos per process and step; all processes' contrast with each other", least=2)
    weight_decay: float = option(0.05, "AdamW's weight decay", least=0)
    precision: str = option("auto", "auto is bf16 on GPUs", choices=("auto", "float32", "bf16"))
    seed: int = option(42, "seed of everything; each process adds its rank", least=0, most=2**31)
    num_workers: int = option(2, "loader processes per training process", least=0, free=True)
    output_dir: str = option("outputs/vt_clip", "where the run leaves its files", free=True)
    device: str = option("auto", "auto takes a GPU where there is one", choices=("auto", "cpu", "cuda"), free=True)
    log_freq: int = option(10, "write a line of losses every so many steps", least=1, free=True)


class Trainee(nn.Module):
    """VT-CLIP while it is trained.

    Args:
        vt_clip: `VTClip`.
        from_videos: train the image tower; otherwise it is frozen but for its projection, which is learned as a
            square matrix behind the ready features and multiplied in at the end.
    """

    def __init__(self, vt_clip, from_videos):
        super().__init__()
        self.vt_clip = vt_clip
        self.transform = clip_frame_encoder(vt_clip).transform
        self.projection = None
        if not from_videos:
            self.projection = nn.Parameter(torch.eye(vt_clip.width))
            vt_clip.clip.visual.requires_grad_(False)

    def forward(self, batch):
        """`PairBatch` of N videos -> what `vt_clip_loss` takes."""
        keyframes, others = (self._pooled(frames) for frames in (batch.keyframes, batch.others))  # (N, C)
        texts = self.vt_clip.encode_text_padded(batch.texts).float()  # (N, C)
        return keyframes, others, batch.has_others.float(), texts, self.vt_clip.clip.logit_scale.exp()

    def _pooled(self, frames):
        if self.projection is not None:
            with torch.autocast(frames.device.type, enabled=False):  # half precision does not see an identity change
                return frames[:, 0] @ self.projection  # (N, C)
        N, n = frames.shape[:2]
        images = normalize(frames.flatten(0, 1), self.transform)  # (N·n, 3, S, S)
        return self.vt_clip.encode_image(images).float().view(N, n, -1).mean(1)  # (N, C)

    def weights(self):
        """State dict in OpenAI's layout."""
        state = {name: value.detach().cpu().clone() for name, value in self.vt_clip.clip.state_dict().items()}
        if self.projection is not None:
            state["visual.proj"] = state["visual.proj"] @ self.projection.detach().cpu()
        return state


def step_loss(model, batch, world, autocast):
    """Loss of one step over the videos of all processes, see `vt_clip_loss`."""
    with autocast():
        *features, scale = model(batch)
    return vt_clip_loss(*(distributed.gather_rows(part, world) for part in features), scale)


def train_one_epoch(model, loader, optimizer, *, logit_scale, progress, save, config, world, autocast, log):
    """Run what is left of an epoch; raises `Interrupted`, once saved, where a signal asked the run to end."""
    start, before, epoch, first = time.monotonic(), progress.seconds, progress.epoch, progress.done // world.size
    with progress_bar(loader, world.is_main, desc=f"epoch {epoch}", unit="step") as bar:
        for step, batch in enumerate(bar, first):
            loss, right = step_loss(model, batch.to(world.device), world, autocast)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"epoch {epoch}, step {step}: loss: found {loss.item()}, expected a finite number"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                logit_scale.clamp_(max=MAX_LOGIT_SCALE)
            progress.done = (step + 1) * world.size
            if (step + 1) % config.log_freq == 0 or step + 1 == first + len(loader):
                values = dict(loss=loss.item(), finds_video=right[0].item(), beats_hard=right[1].item())
                log.write(type="step", epoch=epoch, step=step, lr=optimizer.param_groups[0]["lr"], **values)
                bar.set_postfix(loss=f"{loss.item():.3f}")
            if distributed.any_of(bool(interrupt.requested()), world):
                progress.seconds = before + time.monotonic() - start
                save()
                distributed.barrier()  # who ends first would take the others with it
                raise interrupt.Interrupted(interrupt.requested() or "a signal to another process")
    log.write(type="epoch", epoch=epoch, seconds=round(before + time.monotonic() - start, 3))


@torch.no_grad()
def validate(model, loader, world, autocast):
    """Loss and hit rates over the validation split, all its videos together; None but on the first process."""
    parts = []
    for batch in loader:
        with autocast():
            *features, scale = model(batch.to(world.device))
        parts.append([part.cpu() for part in features])
    every = distributed.gather_objects(parts, world)
    if every is None:
        return None
    features = (torch.cat(part) for part in zip(*(row for rows in every for row in rows)))
    loss, right = vt_clip_loss(*features, scale.cpu())
    return dict(loss=loss.item(), finds_video=right[0].item(), beats_hard=right[1].item())


def check_features(vision_root, vt_clip):
    """Make sure that features were made with the CLIP that training starts from.

    Raises:
        ValueError: they say that they were not.
    """
    record = pathlib.Path(vision_root, PROVENANCE_FILE)
    if not record.is_file():
        logger.warning("%s: no such file: whether these features are of the CLIP to start from is not known", record)
        return
    found, expected = read_provenance(record).get("weights_sha256"), weights_sha256(vt_clip.clip)
    if found != expected:
        raise ValueError(
            f"{record}: weights_sha256: found {found}, expected {expected}: these features are not of the CLIP to "
            "start from; make them with extract_features.py --vt_clip and the same CLIP"
        )


def build_loaders(config, world, vt_clip):
    """Loaders of the training and the validation split."""
    how = dict(seed=config.seed, vision_root=config.vision_root, width=vt_clip.width)
    if config.videos:
        transform = clip_frame_encoder(vt_clip).transform
        how = dict(seed=config.seed, videos=find_videos([config.videos]), transform=transform, frames=config.frames)
    train, val = (Pairs(pathlib.Path(config.ann_root, f"{split}_videoxum.json"), **how) for split in ("train", "val"))
    place = dict(rank=world.rank, world_size=world.size)
    batches = (
        TrainBatches([record.num_frames for record in train.records], config.batch_size, seed=config.seed, **place),
        EvalBatches([0] * len(val), config.batch_size, alone_above=0, **place),
    )
    make = functools.partial(make_loader, collate_fn=collate_pairs, pin_memory=world.device.type == "cuda")
    return [
        make(dataset, InEpoch(some), num_workers=config.num_workers) for dataset, some in zip((train, val), batches)
    ]


def main(argv=None):
    config, _ = load_config(argv, __doc__.splitlines()[0], cls=VTClipConfig)
    world = distributed.start(config.device)
    output_dir = make_folder(config.output_dir, "output_dir")
    setup_logging(world.is_main, output_dir / "train.log")
    if world.is_main:
        remove_leftovers(output_dir)
    seed_everything(config.seed + world.rank)
    with distributed.local_main_first(world):
        vt_clip = find_clip(config.clip)
    if not config.videos:
        check_features(config.vision_root, vt_clip)
    train_loader, val_loader = build_loaders(config, world, vt_clip)
    train(config, world, Trainee(vt_clip, bool(config.videos)), train_loader, val_loader, output_dir)
    distributed.stop()


def train(config, world, model, loader, val_loader, output_dir):
    """Train to the last epoch; each one ends with a validation and the newest weights on disk."""
    model.to(world.device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    logit_scale = model.vt_clip.clip.logit_scale
    groups = [dict(params=[p for p in trained if p is not logit_scale]), dict(params=[logit_scale], weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=config.init_lr, weight_decay=config.weight_decay)
    state = dict(model=model, optimizer=optimizer, data=loader.dataset.fingerprint())
    checkpoints = Checkpoints(output_dir, world, config, **state)
    progress = checkpoints.resume(config.resume) or Progress()
    if world.is_main:
        write_config(config, output_dir / "config.yaml")
    half = config.precision == "bf16" or (config.precision == "auto" and world.device.type == "cuda")
    autocast = functools.partial(torch.autocast, world.device.type, torch.bfloat16, enabled=half)
    wrapped = distributed.parallel(model, world)
    logger.info(
        "VT-CLIP: %.1f M of %.1f M parameters are trained, %d videos, %d steps per epoch",
        sum(p.numel() for p in trained) / 1e6,
        sum(p.numel() for p in model.parameters()) / 1e6,
        len(loader.dataset),
        len(loader),
    )
    log = JsonLines(output_dir / "log.jsonl", world.is_main, keep=progress.log_bytes)
    save = functools.partial(checkpoints.save, progress, log)
    while progress.epoch < config.max_epoch:
        epoch = progress.epoch
        set_lr(optimizer, cosine_lr(epoch, config.max_epoch, config.init_lr, config.min_lr))
        loader.batch_sampler.set_epoch(epoch, progress.done)
        checkpoints.seed(progress)
        how = dict(logit_scale=logit_scale, progress=progress, save=save, config=config, world=world, log=log)
        train_one_epoch(wrapped.train(), loader, optimizer, autocast=autocast, **how)
        scores = validate(model.eval(), val_loader, world, autocast)
        if world.is_main:
            log.write(type="validation", epoch=epoch, **scores)
            logger.info("epoch %d: validation: %s", epoch, ", ".join(f"{k} {v:.4f}" for k, v in scores.items()))
            write_weights(output_dir / "vt_clip.pth", model.weights(), config.as_dict())
        progress.next_epoch()
        save()
    log.close()


if __name__ == "__main__":
    run_main(main, resumable=True)
