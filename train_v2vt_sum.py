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

from data.dataset import VideoXum
from data.loaders import TrainBatches, make_loader
from engine.checkpoint import BEST, NEWEST, Checkpoints, Progress
from engine.config import load_config
from engine.evaluator import Evaluator
from engine.monitor import Guard
from engine.schedule import cosine_lr, set_lr
from engine.setup import (
    annotation_file,
    begin,
    build_model,
    check_starting_weights,
    load_trained,
    starting_weights,
)
from engine.trackers import check_trackers, follow
from models.vtsum_blip import WIDTHS
from utils import distributed, interrupt
from utils.device import autocast, gradient_scaler
from utils.download import resolve_file
from utils.log import JsonLines, progress_bar, run_main
from utils.settings import write_config

logger = logging.getLogger(__name__)


def build_loader(config, world, model):
    """Training split -> loader of this process's shuffled batches."""
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
    return make_loader(
        dataset, batches, num_workers=config.num_workers, pad_id=pad_id, pin_memory=world.device.type == "cuda"
    )


def weighted_loss(config, loss_tsum, loss_vsum):
    """λ_vsum · loss_vsum + λ_tsum · loss_tsum, over the losses that the task has."""
    parts = ((config.lambda_vsum, loss_vsum), (config.lambda_tsum, loss_tsum))
    return sum(weight * loss for weight, loss in parts if loss is not None)


def loss_names(task):
    """Names of what `learn` gives."""
    return ["loss", *(["loss_tsum"] if task != "v2v" else []), *(["loss_vsum"] if task != "v2t" else [])]


def learn(model, batch, scaler, config, world, *, group, is_last):
    """Compute the losses of one of the `group` batches of a step and add its gradients; returns the losses."""
    with contextlib.nullcontext() if is_last or world.size == 1 else model.no_sync():
        with autocast(config.precision, world.device):
            losses = model(batch.video_embeddings, batch.video_mask, batch.vsum_labels, batch.tsum_labels)
        loss = weighted_loss(config, *losses)
        scaler.scale(loss / group).backward()
    return torch.stack([value.detach().double() for value in (loss, *losses) if value is not None])


def train_one_epoch(model, loader, optimizer, scaler, *, progress, guard, save, config, world, log):
    """Run what is left of an epoch; returns the mean of each loss over its batches and processes.

    Args:
        model: wrapped for the processes.
        loader: of the batches that are left.
        optimizer, scaler: a fused optimiser, `torch.amp.GradScaler`.
        progress: `Progress`; kept up to date.
        guard: `Guard`.
        save: function that makes a checkpoint of now.
        config, world: `Config`, `distributed.World`.
        log: `JsonLines`.
    Raises:
        FloatingPointError: a loss or the gradient is not finite; the message names epoch, step and videos.
        Interrupted: a signal asked the run to end; it is saved.
    """
    start, before, names = time.monotonic(), progress.seconds, loss_names(config.task)
    first = progress.done // world.size
    with progress_bar(loader, world.is_main, desc=f"epoch {progress.epoch}", unit="step") as bar:
        for i, batch in enumerate(bar):
            group_start = i - i % config.accumulate
            group = min(config.accumulate, len(loader) - group_start)  # batches of this step of the optimiser
            is_last = i + 1 == group_start + group
            batch = batch.to(world.device)
            losses = learn(model, batch, scaler, config, world, group=group, is_last=is_last)
            guard.add(batch.video_ids, losses)
            if not is_last:
                continue
            guard.close_step(progress.epoch, first + i)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            after = first + i + 1  # batches of this process in the epoch
            progress.done = after * world.size
            stop = distributed.any_of(bool(interrupt.requested()), world)
            save_now = stop or (config.ckpt_steps and -(-after // config.accumulate) % config.ckpt_steps == 0)
            log_now = i + 1 == len(loader) or after // config.log_freq > (after - group) // config.log_freq
            if log_now or save_now:  # to look means to wait for the device
                guard.look(log)
            if log_now:
                means = dict(zip(names, distributed.mean(losses, world).tolist()))
                lr = optimizer.param_groups[0]["lr"]
                log.write(type="step", epoch=progress.epoch, step=after - 1, lr=lr, **means, **guard.gradient())
                bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()})
            if save_now:
                progress.totals, progress.skipped = guard.totals.tolist(), guard.skipped
                progress.seconds = before + time.monotonic() - start
                save()
            if stop:
                distributed.barrier()  # who ends first would take the others with it
                raise interrupt.Interrupted(interrupt.requested() or "a signal to another process")
    progress.skipped = guard.skipped
    *sums, count = distributed.mean(guard.totals, world).tolist()
    means = {name: total / count if count else math.nan for name, total in zip(names, sums)}
    scale = dict(scale=scaler.get_scale()) if scaler.is_enabled() else {}
    seconds = round(before + time.monotonic() - start, 3)
    log.write(type="epoch", epoch=progress.epoch, seconds=seconds, **means, **scale)
    return means


def score_only(config, world, model, output_dir):
    """--evaluate: score --pretrained_model, else --resume, else the run's own newest checkpoint."""
    own = output_dir / NEWEST
    resume = "" if config.resume == "auto" else config.resume
    source = config.pretrained_model or resume or (own if own.is_file() else "")
    if not source:
        raise ValueError(f"evaluate: found neither pretrained_model, resume nor {own}, expected weights to score")
    with distributed.local_main_first(world):
        checkpoint = resolve_file(source)
    trained_with = load_trained(config, model, checkpoint)
    Evaluator(config, world).evaluate(model.to(world.device), checkpoint=checkpoint, trained_with=trained_with)


def main(argv=None):
    config, overridden = load_config(argv, __doc__.splitlines()[0])
    if config.evaluate:
        files = dict(splits=config.splits, log_file="eval.log", config_file="config_eval.yaml")
    else:
        check_starting_weights(config)
        check_trackers(config)
        files = dict(splits=("train", *config.splits), log_file="train.log", config_file=None)
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
    loader = build_loader(config, world, model)
    evaluator = Evaluator(config, world)
    model.to(world.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.init_lr, weight_decay=config.weight_decay, fused=True)
    scaler = gradient_scaler(config.precision, world.device)
    state = dict(model=model, optimizer=optimizer, scaler=scaler, data=loader.dataset.fingerprint())
    checkpoints = Checkpoints(output_dir, world, config, **state)
    progress = checkpoints.resume(config.resume)
    if progress is None:
        starting_weights(config, world, model)
        progress = Progress()
    if world.is_main:
        write_config(config, output_dir / "config.yaml")
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

    log = JsonLines(output_dir / "log.jsonl", world.is_main, keep=progress.log_bytes)
    follow(log, config)
    save = functools.partial(checkpoints.save, progress, log)
    guard = Guard(optimizer, scaler, world, config.skip_nonfinite)
    score = functools.partial(score_epoch, evaluator, model, checkpoints, progress, log)
    keep_copy(checkpoints, progress)  # where the run ended before it was made
    if progress.epoch >= config.max_epoch:
        logger.info("%s: all %d epochs are done, scoring only", checkpoints.current, config.max_epoch)
    else:
        score()  # where the run ended before or while its last epoch was scored
    while progress.epoch < config.max_epoch:
        set_lr(optimizer, cosine_lr(progress.epoch, config.max_epoch, config.init_lr, config.min_lr))
        loader.batch_sampler.set_epoch(progress.epoch, progress.done)
        checkpoints.seed(progress)
        guard.start(progress)
        how = dict(progress=progress, guard=guard, save=save, config=config, world=world, log=log)
        means = train_one_epoch(wrapped.train(), loader, optimizer, scaler, **how)
        logger.info("epoch %d: %s", progress.epoch, ", ".join(f"{name} {value:.4f}" for name, value in means.items()))
        progress.next_epoch()
        save()
        keep_copy(checkpoints, progress)
        if progress.epoch < config.max_epoch:
            score()
    score(last=True)
    log.close()


def keep_copy(checkpoints, progress):
    """Every `ckpt_freq` epochs, keep a copy of the epoch's checkpoint, which is the newest."""
    config, own = checkpoints.config, checkpoints.current == checkpoints[NEWEST]
    if own and config.ckpt_freq and progress.epoch and progress.done == 0 and progress.epoch % config.ckpt_freq == 0:
        checkpoints.keep(f"checkpoints/checkpoint_{progress.epoch - 1:03d}.pth", config.keep_last)


def score_epoch(evaluator, model, checkpoints, progress, log, last=False):
    """Evaluate the epoch before `progress.epoch`, if it is due and not done, and note the scores in the log.

    With `eval_freq`, the best checkpoint on the validation split is kept.
    """
    config, epoch = checkpoints.config, progress.epoch - 1
    due = config.eval_freq and progress.epoch % config.eval_freq == 0 and progress.done == 0
    if not last and (not due or progress.scored >= epoch or epoch < 0):
        return
    for split, results in evaluator.evaluate(model, checkpoint=checkpoints.current).items():
        log.write(type="evaluation", epoch=epoch, split=split, **results["metrics"])
        value, best = results["metrics"].get(config.best_metric, -math.inf), progress.best or {}
        least = best["value"] if best.get("metric") == config.best_metric else -math.inf  # of another metric, none
        if config.eval_freq and split == "val" and value > least:
            progress.best = dict(metric=config.best_metric, value=value, epoch=epoch)
            checkpoints.keep(BEST)
            logger.info("%s: the best so far: %s %.4f of epoch %d", BEST, config.best_metric, value, epoch)
    progress.scored = epoch
    progress.best = distributed.from_main(progress.best, checkpoints.world)
    if not last:
        checkpoints.save(progress, log)


if __name__ == "__main__":
    run_main(main, resumable=True)
