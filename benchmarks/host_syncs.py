"""Host syncs of a training step and of a caption search on a GPU, by PyTorch's sync debug mode.

A CPU has none: there, the same steps run, and the rows say that nothing was counted.
"""

import contextlib
import itertools
import pathlib
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from benchmarks.records import Row
from benchmarks.workload import build_full_size_model, draw_captions, draw_videos, get_blip_decoder
from utils.precision import PrecisionName

SYNC_MESSAGE = "synchronizing CUDA operation"  # of PyTorch's warning and error
NOT_COUNTED = "a CPU has no host syncs: the steps ran, nothing was counted"
STEPS_PER_SYNC = 8  # decoding steps between checks for finished videos
MAX_OTHER_SYNCS = 10  # copies of mask and prompt to the GPU, and of the captions from it
NUM_TRAINER_STEPS = 3  # the first one is not checked: it initializes libraries and the optimizer's state


@contextlib.contextmanager
def sync_debug_mode(mode: Literal["warn", "error"], device: torch.device) -> Iterator[None]:
    """Let host syncs be warnings or errors within the block; does nothing on a CPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def require_detection(device: torch.device) -> None:
    """Raise an AssertionError unless a host sync is an error in the debug mode; does nothing on a CPU."""
    if device.type != "cuda":
        return
    value = torch.ones(1, device=device)
    try:
        with sync_debug_mode("error", device):
            value.item()
    except RuntimeError as error:
        if SYNC_MESSAGE in str(error):
            return
        raise
    raise AssertionError("the sync debug mode did not detect a host sync")


def build_sync_row(measurement: str, num_syncs: int, device: torch.device, check: str) -> Row:
    """Build the row of a number of host syncs."""
    check = check if device.type == "cuda" else NOT_COUNTED
    return Row(measurement=measurement, project_value=num_syncs, unit="host syncs", check=check)


def check_training_step(
    device: torch.device,
    frames: Sequence[int],
    tokens: Sequence[int],
    *,
    precision: PrecisionName,
    med_config: str,
) -> list[Row]:
    """Perform a training step, for both scopes of the smoothing, in which a host sync is an error.

    Args:
        device: device of the model.
        frames: number of frames of each video.
        tokens: number of tokens of each caption.
        precision: autocast precision.
        med_config: see `build_full_size_model`.
    """
    from benchmarks.training import Losses, build_training_step

    require_detection(device)
    rows = []
    for smoothing_scope in ("published", "scored"):
        model = build_full_size_model(smoothing_scope=smoothing_scope, med_config=med_config).to(device).train()
        embeddings, mask, labels = draw_videos(frames)
        batch = (embeddings.to(device), mask, labels.to(device), draw_captions(tokens, model))

        def compute_losses(model: torch.nn.Module = model, batch: tuple[torch.Tensor, ...] = batch) -> Losses:
            loss_tsum, loss_vsum = model(*batch)
            return loss_tsum, loss_vsum

        perform_step = build_training_step(model, compute_losses, device, precision, fused=True)
        perform_step()
        with sync_debug_mode("error", device):
            perform_step()
        rows.append(
            build_sync_row(
                f"training step, {precision}, B = {len(frames)}, smoothing {smoothing_scope}",
                0,
                device,
                'no error under set_sync_debug_mode("error")',
            )
        )
    return rows


def check_trainer(device: torch.device, settings: Sequence[str]) -> list[Row]:
    """Perform steps of the trainer, with its loader and monitor, in which a host sync is an error.

    Args:
        device: for the row.
        settings: flags of `train_v2vt_sum.py`, device included.
    """
    from engine.config import load_config
    from engine.training import build_vtsum_trainer
    from utils.log import setup_logging

    require_detection(device)
    with tempfile.TemporaryDirectory() as folder:
        config = load_config([*settings, "--output_dir", str(pathlib.Path(folder, "run")), "--resume", ""]).settings
        try:
            trainer = build_vtsum_trainer(config)
            trainer.start_epoch()
            num_steps = 0
            windows = trainer.accumulation_windows(trainer.loader)
            for window in itertools.islice(windows, NUM_TRAINER_STEPS):
                with sync_debug_mode("error", device) if num_steps else contextlib.nullcontext():
                    losses, video_ids = trainer.forward_backward(window)
                    trainer.optimizer_step(window, losses, video_ids)
                num_steps += 1
            trainer.monitor.flush()
        finally:
            setup_logging(True)  # closes the log file
    assert num_steps == NUM_TRAINER_STEPS, f"found {num_steps} steps in an epoch, expected {NUM_TRAINER_STEPS}"
    check = f'{num_steps - 1} steps without an error under set_sync_debug_mode("error")'
    return [build_sync_row(f"step of the trainer, {config.precision}", 0, device, check)]


def count_syncs(caught: Sequence[warnings.WarningMessage]) -> int:
    """Count the warnings of the sync debug mode."""
    return sum(SYNC_MESSAGE in str(warning.message) for warning in caught)


def check_generation(
    device: torch.device, *, B: int, T: int, L: int, precision: PrecisionName, med_config: str
) -> list[Row]:
    """Count the host syncs of `generate`: at most one per 8 decoding steps, and a constant.

    Args:
        device: device of the model.
        B: videos.
        T: frames of each.
        L: tokens of each caption.
        precision: autocast precision.
        med_config: see `build_full_size_model`.
    Raises:
        AssertionError: there are more.
    """
    from benchmarks.decoding import widen_weights
    from utils.device import autocast

    require_detection(device)
    model = widen_weights(build_full_size_model(med_config=med_config).to(device))
    embeddings, mask, _ = draw_videos([T] * B)
    embeddings = embeddings.to(device)

    def generate() -> None:
        with autocast(precision, device):
            captions, _ = model.generate(embeddings, mask, num_beams=3, max_length=L, min_length=L)
        assert captions is not None and len(captions) == B

    generate()
    with warnings.catch_warnings(record=True) as caught, sync_debug_mode("warn", device):
        warnings.simplefilter("always")
        generate()
    num_syncs = count_syncs(caught)
    num_steps = L - len(get_blip_decoder(model).tokenizer.prompt_ids)
    limit = -(-num_steps // STEPS_PER_SYNC) + MAX_OTHER_SYNCS
    assert device.type != "cuda" or 0 < num_syncs <= limit, f"{num_syncs} host syncs in {num_steps} decoding steps"
    return [
        build_sync_row(
            f"generate, {precision}, B = {B}, {num_steps} decoding steps",
            num_syncs,
            device,
            f"at most {limit}: one per {STEPS_PER_SYNC} decoding steps, and {MAX_OTHER_SYNCS}",
        )
    ]
