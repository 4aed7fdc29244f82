"""What a run does before its first batch: processes, folder, log and seed; model and weights; is its data there?"""

import logging
import pathlib

from engine.checkpoint import NEWEST, PREVIOUS
from models.vtsum_blip import v2vt_sum
from models.weights import IncompatibleCheckpoint, load_weights
from utils import distributed
from utils.device import allow_tf32
from utils.download import fetch, is_url
from utils.files import make_folder, remove_leftovers
from utils.log import setup_logging
from utils.seed import seed_everything
from utils.settings import write_config

logger = logging.getLogger(__name__)

ARCHITECTURE = ("model", "vit", "tt_depth", "kernel_size", "prompt")


def begin(config, overridden, *, splits, log_file, config_file=None):
    """Start a run: processes, output folder, log, resolved configuration, seed; returns the `distributed.World`."""
    check_paths(config, splits)
    world = distributed.start(config.device)
    output_dir = make_folder(config.output_dir, "output_dir")
    setup_logging(world.is_main, output_dir / log_file)
    if world.is_main:
        remove_leftovers(output_dir)
    for name, (in_yaml, in_flag) in overridden.items():
        logger.info("%s: the config says %r, the flag says %r: the flag counts", name, in_yaml, in_flag)
    if world.is_main and config_file:
        write_config(config, output_dir / config_file)
    seed_everything(config.seed + world.rank)
    allow_tf32(config.tf32)
    return world


def annotation_file(config, split):
    """Path of a split's annotations."""
    return pathlib.Path(config.ann_root, f"{split}_videoxum.json")


def check_paths(config, splits):
    """Look for the data that a run needs before anything slow is done.

    Raises:
        FileNotFoundError: an annotation file or the feature folder is missing.
    """
    for path in [annotation_file(config, split) for split in splits]:
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: annotations: no such file; python -m data.download gets VideoXum's (ann_root)"
            )
    if not pathlib.Path(config.video_embeddings_root).is_dir():
        raise FileNotFoundError(
            f"{config.video_embeddings_root}: BLIP features: no such folder; python -m data.download gets VideoXum's, "
            "extract_features.py makes them (video_embeddings_root)"
        )


def build_model(config):
    """Build the model that a configuration describes, as initialised."""
    return v2vt_sum(
        config.model,
        tt_depth=config.tt_depth,
        kernel_size=config.kernel_size,
        loss_type=config.loss_type,
        vit=config.vit,
        prompt=config.prompt,
        max_text_length=config.max_text_length,
        med_config=config.med_config,
        tokenizer=config.tokenizer,
        task=config.task,
        smoothing_scope=config.smoothing_scope,
        vit_grad_ckpt=config.vit_grad_ckpt,
        vit_ckpt_layer=config.vit_ckpt_layer,
    )


def check_starting_weights(config):
    """Look for a local file of starting weights before anything slow is done.

    Raises:
        FileNotFoundError: it is missing.
    """
    names = ("pretrained_model", "pretrained") if config.resume in ("auto", "") else ("resume",)
    if config.resume and any(pathlib.Path(config.output_dir, name).is_file() for name in (NEWEST, PREVIOUS)):
        return  # that is what the run goes on from
    option = next((name for name in names if getattr(config, name)), None)
    source = getattr(config, option) if option else ""
    if source and not is_url(source) and not pathlib.Path(source).is_file():
        hint = (
            "; it is of BLIP's own release (docs/data.md); --pretrained '' starts from scratch"
            if option == "pretrained"
            else ""
        )
        raise FileNotFoundError(f"{source}: {option}: no such file{hint}")


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


def load_trained(config, model, source):
    """Load the weights of a trained model, and say where it was trained with another one than this.

    Args:
        config: `Config` that the model was built from.
        model: `VTSumBLIP`.
        source: path of the checkpoint.
    Returns:
        the configuration that the checkpoint says it was trained with: a dictionary, {} where it says none.
    Raises:
        FileNotFoundError, ValueError: see `load_weights`; with the settings that differ where it does not fit.
    """
    try:
        trained = load_weights(model, source)
    except IncompatibleCheckpoint as error:
        causes = _differences(config, error.trained_with, (*ARCHITECTURE, "task", "med_config", "tokenizer"))
        raise ValueError("; ".join([str(error), *causes])) from None
    for difference in _differences(config, trained, ARCHITECTURE):
        logger.warning("%s", difference)
    return trained


def _differences(config, trained, names):
    return [
        f"{name}: the checkpoint was trained with {trained[name]!r}, this run says {getattr(config, name)!r}"
        for name in names
        if name in trained and trained[name] != getattr(config, name)
    ]
