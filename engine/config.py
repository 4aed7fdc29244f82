"""One frozen configuration: defaults < YAML < flags that were really typed.

Flags are generated from the fields, so the two cannot drift.
"""

import argparse
import dataclasses

from metrics.registry import METRICS
from utils.command_line import OneLineParser
from utils.device import PRECISIONS
from utils.settings import Settings, fields_of, is_list, nearest, option, read_layers

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Everything a run of VTSUM-BLIP can be told."""

    # Data
    video_embeddings_root: str = option(
        "dataset/ActivityNet/feat/blip", "folder of BLIP features, {video_id}.npz", free=True
    )
    ann_root: str = option("dataset/ActivityNet/anno", "folder of {train,val,test}_videoxum.json", free=True)
    clip_root: str = option(
        "dataset/ActivityNet/feat/vt_clipscore", "folder of VT-CLIP features; '' scores no VT-CLIP", free=True
    )
    max_video_length: int = option(512, "training cuts videos to so many frames", least=1)
    max_text_length: int = option(
        128, "longest caption in words, then tokens with the prompt; also when generating", least=2
    )
    num_workers: int = option(2, "loader processes per training process", least=0, free=True)
    length_bucketing: bool = option(
        False, "train on batches of videos of like length: less padding, but other batches and another loss scale"
    )
    # Weights
    pretrained: str = option(
        "outputs/blip/model_base_capfilt_large.pth",
        "BLIP checkpoint (path, https:// or hf://) to start from; '' starts from scratch",
    )
    pretrained_model: str = option(
        "", "VTSUM-BLIP checkpoint (path, https:// or hf://): what evaluation scores, what training starts from"
    )
    pretrained_clip: str = option(
        "outputs/vt_clipscore/vt_clip.pth", "VT-CLIP checkpoint; '' scores no VT-CLIP", free=True
    )
    resume: str = option(
        "auto",
        "auto goes on from output_dir's own newest checkpoint, if there is one; a checkpoint's path does so too, and "
        "from that one otherwise; '' starts anew",
        free=True,
    )
    # Model
    model: str = option("vtsum_blip_tt", "architecture", choices=("vtsum_blip_tt", "vtsum_blip_tt_ca"))
    task: str = option(
        "v2vt", "both summaries, only the visual (v2v) or only the textual one (v2t)", choices=("v2vt", "v2v", "v2t")
    )
    vit: str = option(
        "base", "BLIP's image encoder that made the features: 768 or 1024 wide", choices=("base", "large")
    )
    tt_depth: int = option(
        1, "blocks of the temporal transformer; 0 leaves it out: the base model, frames beside each other", least=0
    )
    kernel_size: int = option(5, "window of the context aggregation in frames: kernel_size // 2 to each side", least=1)
    med_config: str = option("configs/med_config.json", "sizes of the caption decoder")
    tokenizer: str = option("bert-base-uncased", "hub name, or folder with vocab.txt or tokenizer.json")
    prompt: str = option("a video of ", "what every caption begins with")
    image_size: int = option(
        224, "side of the frames that the features are made from, for summarize.py", least=1, free=True
    )
    vit_grad_ckpt: bool = option(
        False,
        "recompute activations (temporal transformer, decoder) in the backward pass: less memory, same result",
        free=True,
    )
    vit_ckpt_layer: int = option(
        0, "limit that to the last so many layers of each of the two; 0 is all", least=0, free=True
    )
    # Losses
    loss_type: str = option("cross_entropy", "key-frame loss", choices=("cross_entropy", "l2"))
    smoothing_scope: str = option(
        "published", "where the caption loss smooths labels, see QUIRK-2", choices=("published", "scored")
    )
    lambda_vsum: float = option(1.0, "weight of the key-frame loss", least=0)
    lambda_tsum: float = option(1.0, "weight of the caption loss", least=0)
    # Optimisation
    init_lr: float = option(1e-5, "learning rate of the first epoch", above=0)
    min_lr: float = option(0.0, "learning rate that the cosine ends at", least=0)
    max_epoch: int = option(28, "epochs", least=1)
    batch_size: int = option(16, "videos per process and step", least=1)
    weight_decay: float = option(0.05, "AdamW's weight decay", least=0)
    seed: int = option(42, "seed of everything; each process adds its rank", least=0, most=2**31)
    accumulate: int = option(1, "batches per process that make up one step of the optimiser", least=1)
    # Generation and scoring
    num_beams: int = option(3, "beams of the caption search", least=1, free=True)
    min_text_length: int = option(10, "shortest generated caption in tokens, prompt included", least=0, free=True)
    splits: tuple[str, ...] = option(("val", "test"), "splits to score", choices=SPLITS, free=True)
    eval_freq: int = option(0, "score every so many epochs; 0 only after the last", least=0, free=True)
    best_metric: str = option(
        "Kendall",
        "with eval_freq, checkpoint_best.pth is the one with most of this on val",
        choices=tuple(METRICS),
        free=True,
    )
    evaluate: bool = option(False, "score the weights and do not train", free=True)
    # Running
    output_dir: str = option("outputs/run", "where the run leaves its files", free=True)
    precision: str = option(
        "fp32", "arithmetic of the model; weights, losses and scores stay in float32", choices=tuple(PRECISIONS)
    )
    tf32: bool = option(False, "let GPUs round the factors of float32 products to TF32")
    compile: bool = option(False, "train with torch.compile: faster on GPUs after a slow start", free=True)
    device: str = option("auto", "auto takes a GPU where there is one", choices=("auto", "cpu", "cuda"), free=True)
    ckpt_steps: int = option(
        0, "write checkpoint.pth every so many steps of the optimiser, not only after each epoch", least=0, free=True
    )
    ckpt_freq: int = option(
        5, "keep a checkpoint in checkpoints/ every so many epochs; 0 keeps none", least=0, free=True
    )
    keep_last: int = option(0, "keep only the last so many of them; 0 keeps all", least=0, free=True)
    skip_nonfinite: int = option(
        0,
        "leave out so many steps in which a loss or the gradient is not finite, before the run ends",
        least=0,
        free=True,
    )
    log_freq: int = option(
        10, "look at the losses, and write a line of them, every so many batches", least=1, free=True
    )
    tensorboard: bool = option(False, "show log.jsonl in TensorBoard too, from output_dir/tensorboard", free=True)
    wandb: str = option("", "show it on Weights & Biases too, in the project of this name", free=True)

    def __post_init__(self):
        super().__post_init__()
        if not self.output_dir:
            raise ValueError("output_dir: found nothing, expected a folder")
        if self.min_lr > self.init_lr:
            raise ValueError(f"min_lr: found {self.min_lr}, expected at most init_lr ({self.init_lr})")
        if self.min_text_length > self.max_text_length:
            limit = f"max_text_length ({self.max_text_length})"
            raise ValueError(f"min_text_length: found {self.min_text_length}, expected at most {limit}")


def _bool(text):
    """Read a flag's value as YAML would."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected true or false")
    return words[text.lower()]


def _help(field):
    """The help text with the values to choose from."""
    choices = field.metadata["choices"]
    return field.metadata["help"] + (f": {', '.join(choices)}" if choices else "")


def _parser(description, cls):
    parser = OneLineParser(description=description, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="YAML file of settings; flags override it")
    for field in fields_of(cls).values():
        how = dict(help=f"{_help(field)} (default: {field.default!r})".replace("%", "%%"))
        if field.type is bool:
            how |= dict(type=_bool, nargs="?", const=True, metavar="BOOL")
        elif is_list(field):
            how |= dict(nargs="+", metavar="NAME")
        else:
            how |= dict(type=field.type, metavar=field.type.__name__.upper())
        parser.add_argument(f"--{field.name}", **how)
    return parser


def load_config(argv=None, description=None, *, cls=Config, add_arguments=None):
    """Build the configuration of a command line.

    Args:
        argv: arguments without the program's name; None takes the process's own.
        description: what `--help` says first.
        cls: class of the configuration.
        add_arguments: function that adds a script's own arguments to the `argparse` parser.
    Returns:
        `cls`; a dictionary of the settings that a flag overrode: name -> (value in the YAML, value of the flag); with
        `add_arguments` also a namespace of the script's own arguments.
    Raises:
        FileNotFoundError, ValueError: see `read_layers` and `Settings`.
    """
    parser = _parser(description, cls)
    if add_arguments is not None:
        add_arguments(parser)
    typed, unknown = parser.parse_known_args(argv)
    for word in unknown:
        if word.startswith("--"):
            raise ValueError(f"{word}: unknown flag{nearest(word[2:].split('=')[0], cls, '--')}")
    if unknown:
        raise ValueError(f"unknown argument {unknown[0]!r}")
    flags = {name: value for name, value in vars(typed).items() if name in fields_of(cls)}
    layers = read_layers(typed.config, cls)
    values = {name: value for _, layer in layers for name, value in layer.items()}
    try:
        cls(**values)  # so that a wrong value is blamed on the file it stands in
    except ValueError as error:
        name = str(error).split(":")[0]
        if name not in flags:
            source = next((path for path, layer in reversed(layers) if name in layer), typed.config)
            raise ValueError(f"{source}: {error}") from None
    overridden = {name: (values[name], flags[name]) for name in flags if name in values and values[name] != flags[name]}
    config = cls(**(values | flags))
    return (config, overridden) if add_arguments is None else (config, overridden, typed)


def reference_table(cls=Config):
    """The README's table of settings, one row per field."""
    rows = [f"| `{name}` | `{field.default!r}` | {_help(field)} |" for name, field in fields_of(cls).items()]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


if __name__ == "__main__":
    print(reference_table())
