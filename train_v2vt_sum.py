"""Train VTSUM-BLIP.

    python -m torch.distributed.run --nproc_per_node=4 train_v2vt_sum.py --config configs/vtsum_blip_tt_ca.yaml \\
        --output_dir outputs/vtsum_tt_ca --model vtsum_blip_tt_ca --max_epoch 56 --lambda_tsum 1.0 \\
        --lambda_vsum 15.0 --init_lr 2e-5 --kernel_size 5 --batch_size 16 --ckpt_freq 56
"""

import contextlib
import functools
import logging
import math
import pathlib
import time

import torch

from data.loaders import TrainBatches, make_loader
from data.resident import keep_resident
from data.videoxum import VideoXum
from eval_v2vt_sum import Evaluator, annotation_file, begin, build_model, warn_of_differences
from models.vtsum_blip import WIDTHS
from models.weights import load_weights
from utils import distributed
from utils.checkpoint import load_training_state, save_checkpoint
from utils.config import load_config
from utils.download import fetch
from utils.log import JsonLines, progress, run_main
from utils.precision import autocast, gradient_scaler
from utils.schedule import cosine_lr, set_lr
from utils.seed import epoch_seed, seed_everything

logger = logging.getLogger(__name__)


def build_loader(config, world, model):
    """Training split -> loader of this process's shuffled batches, and what puts preloaded frames into a batch."""
    tokenize, pad_id = None, 0
    if model.tokenizer is not None:
        tokenize = functools.partial(model.tokenizer.encode, max_tokens=config.max_text_length)
        pad_id = model.tokenizer.pad_id
    dataset = VideoXum(
        annotation_file(config, "train"),
        config.video_embeddings_root,
        width=WIDTHS[config.vit],
        prompt=config.prompt,
        max_frames=config.max_video_length,
        max_words=config.max_text_length,
        tokenize=tokenize,
    )
    batches = TrainBatches(
        [min(record.num_frames, config.max_video_length) for record in dataset.records],
        config.batch_size,
        rank=world.rank,
        world_size=world.size,
        seed=config.seed,
        bucketing=config.length_bucketing,
    )
    logger.info(
        "padding: %.1f %% of the first epoch's frame places; %.1f %% with length_bucketing",
        *(100 * batches.padded_share(bucketing) for bucketing in (False, True)),
    )
    complete = keep_resident(dataset, config.preload, world.device)
    loader = make_loader(
        dataset, batches, num_workers=config.num_workers, pad_id=pad_id, pin_memory=world.device.type == "cuda"
    )
    return loader, complete


def weighted_loss(config, loss_tsum, loss_vsum):
    """λ_vsum · loss_vsum + λ_tsum · loss_tsum, over the losses that the task has."""
    parts = ((config.lambda_vsum, loss_vsum), (config.lambda_tsum, loss_tsum))
    return sum(weight * loss for weight, loss in parts if loss is not None)


def train_one_epoch(model, loader, complete, optimizer, scaler, *, epoch, config, world, log):
    """Run one epoch; returns the mean of each loss over its batches and processes.

    Raises:
        FloatingPointError: a loss is not finite; the message names epoch, step and videos.
    """
    totals, unchecked, start = None, [], time.monotonic()
    with progress(loader, world.is_main, desc=f"epoch {epoch}", unit="step") as bar:
        for step, batch in enumerate(bar):
            batch = complete(batch.to(world.device))
            first = step - step % config.accumulate
            group = min(config.accumulate, len(loader) - first)  # batches of this step of the optimiser
            is_last = step + 1 == first + group
            with contextlib.nullcontext() if is_last or world.size == 1 else model.no_sync():
                with autocast(config.precision, world.device):
                    losses = model(batch.video_embeddings, batch.video_mask, batch.vsum_labels, batch.tsum_labels)
                loss = weighted_loss(config, *losses)
                scaler.scale(loss / group).backward()
            if is_last:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad(set_to_none=True)
            named = dict(loss=loss, loss_tsum=losses[0], loss_vsum=losses[1])
            named = {name: value.detach() for name, value in named.items() if value is not None}
            values = torch.stack([value.double() for value in named.values()])
            totals = values if totals is None else totals + values
            unchecked.append((step, batch.video_ids, values))
            if (step + 1) % config.log_freq == 0 or step + 1 == len(loader):  # to look means to wait for the device
                require_finite(epoch, named, unchecked)
                unchecked.clear()
                means = dict(zip(named, distributed.mean(values, world).tolist()))
                lr = optimizer.param_groups[0]["lr"]
                log.write(type="step", epoch=epoch, step=step, lr=lr, **means)
                bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()})
    means = dict(zip(named, (distributed.mean(totals, world) / len(loader)).tolist()))
    scale = dict(scale=scaler.get_scale()) if scaler.is_enabled() else {}
    log.write(type="epoch", epoch=epoch, seconds=round(time.monotonic() - start, 3), **means, **scale)
    return means


def require_finite(epoch, names, batches):
    """Look for NaN and infinity in the losses of some batches, in one copy from the device.

    Args:
        epoch: its number.
        names: of the losses.
        batches: list of (step, video ids, losses).
    Raises:
        FloatingPointError: the message names the first such batch.
    """
    losses = torch.stack([values for *_, values in batches]).tolist()
    for (step, video_ids, _), values in zip(batches, losses):
        if not all(map(math.isfinite, values)):
            shown = ", ".join(f"{name} {value}" for name, value in zip(names, values))
            raise FloatingPointError(f"epoch {epoch}, step {step}: not finite: {shown}; videos: {' '.join(video_ids)}")


def starting_weights(config, world, model):
    """Load the weights that a run starts from. Order: --pretrained_model, pretrained, scratch."""
    source = config.pretrained_model or config.pretrained
    if not source:
        logger.info("weights: from scratch")
        return
    with distributed.local_main_first(world):
        path = fetch(source)
    load_weights(model, path)
    logger.info("weights: from %s", source)


def check_starting_weights(config):
    """Look for a local file of starting weights before anything slow is done.

    Raises:
        FileNotFoundError: it is missing.
    """
    option = next((name for name in ("resume", "pretrained_model", "pretrained") if getattr(config, name)), None)
    source = getattr(config, option) if option else ""
    if source and "://" not in source and not pathlib.Path(source).is_file():
        hint = (
            "; the README says where to get it, --pretrained '' starts from scratch" if option == "pretrained" else ""
        )
        raise FileNotFoundError(f"{source}: {option}: no such file{hint}")


def score_only(config, world, model, output_dir):
    """--evaluate: score --pretrained_model, else --resume, else the run's own newest checkpoint."""
    own = output_dir / "checkpoint.pth"
    source = config.pretrained_model or config.resume or (own if own.is_file() else "")
    if not source:
        raise ValueError(f"evaluate: found neither pretrained_model, resume nor {own}, expected weights to score")
    with distributed.local_main_first(world):
        checkpoint = fetch(source)
    warn_of_differences(config, load_weights(model, checkpoint))
    Evaluator(config, world).evaluate(model.to(world.device), checkpoint=checkpoint)


def main(argv=None):
    config, overridden = load_config(argv, __doc__.splitlines()[0])
    if config.evaluate:
        files = dict(splits=config.splits, log_file="eval.log", config_file="config_eval.yaml")
    else:
        check_starting_weights(config)
        files = dict(splits=("train", *config.splits), log_file="train.log", config_file="config.yaml")
    world = begin(config, overridden, **files)
    output_dir = pathlib.Path(config.output_dir)
    model = build_model(config)
    if config.evaluate:
        score_only(config, world, model, output_dir)
    else:
        train(config, world, model, output_dir)
    distributed.stop()


def train(config, world, model, output_dir):
    """Train to the last epoch, with checkpoints and evaluations on the way."""
    loader, complete = build_loader(config, world, model)
    evaluator = Evaluator(config, world)
    if not config.resume:
        starting_weights(config, world, model)
    model.to(world.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.init_lr, weight_decay=config.weight_decay, fused=True)
    state = dict(model=model, optimizer=optimizer, scaler=gradient_scaler(config.precision, world.device))
    first_epoch = load_training_state(config.resume, **state) if config.resume else 0
    if config.compile:
        model.compile_layers()
    wrapped = distributed.parallel(model, world)
    logger.info(
        "%s, task %s: %.1f M parameters; %d videos, %d steps per epoch on %d processes (%s)",
        config.model,
        config.task,
        sum(p.numel() for p in model.parameters()) / 1e6,
        len(loader.dataset),
        len(loader),
        world.size,
        world.device.type,
    )

    log = JsonLines(output_dir / "log.jsonl", world.is_main)
    newest = output_dir / "checkpoint.pth"
    for epoch in range(first_epoch, config.max_epoch):
        set_lr(optimizer, cosine_lr(epoch, config.max_epoch, config.init_lr, config.min_lr))
        loader.batch_sampler.set_epoch(epoch)
        seed_everything(epoch_seed(config.seed, world.rank, epoch))
        wrapped.train()
        means = train_one_epoch(
            wrapped, loader, complete, optimizer, state["scaler"], epoch=epoch, config=config, world=world, log=log
        )
        logger.info("epoch %d: %s", epoch, ", ".join(f"{name} {value:.4f}" for name, value in means.items()))
        if world.is_main:
            save = functools.partial(save_checkpoint, **state, epoch=epoch, config=config)
            save(newest)
            if config.ckpt_freq and (epoch + 1) % config.ckpt_freq == 0:
                (output_dir / "checkpoints").mkdir(exist_ok=True)
                save(output_dir / "checkpoints" / f"checkpoint_{epoch:03d}.pth")
        if config.eval_freq and (epoch + 1) % config.eval_freq == 0 and epoch + 1 < config.max_epoch:
            score(evaluator, model, newest, epoch, log)
    if first_epoch >= config.max_epoch:
        logger.info("%s: all %d epochs are done, scoring only", config.resume, config.max_epoch)
        newest = fetch(config.resume)
    score(evaluator, model, newest, max(first_epoch, config.max_epoch) - 1, log)
    log.close()


def score(evaluator, model, checkpoint, epoch, log):
    """Evaluate and note the scores in the log."""
    for split, results in evaluator.evaluate(model, checkpoint=checkpoint).items():
        log.write(type="evaluation", epoch=epoch, split=split, **results["metrics"])


if __name__ == "__main__":
    run_main(main)
