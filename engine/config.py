"""Settings of VTSUM-BLIP's training and evaluation, and of VT-CLIP's training: every YAML key and flag."""

import argparse
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic

from data.registry import DATASETS
from metrics.registry import METRICS
from utils.command_line import CommandLine, load_settings, reference_table
from utils.device_names import check_device_name
from utils.precision import PRECISION_ALIASES, PrecisionName
from utils.settings import IgnoredKey, InvalidSetting, Settings, option

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
DatasetName = Literal[*DATASETS]  # type: ignore[valid-type]  # computed
MetricName = Literal[*METRICS]  # type: ignore[valid-type]  # computed
CaptionMetrics = Literal["require", "auto"]
DeviceName = Annotated[str, pydantic.AfterValidator(check_device_name)]

RESUME_HELP = (
    "auto: resume from output_dir's newest checkpoint, if any; PATH: the same, or else from PATH; '': start fresh"
)
DATASET_HELP = "dataset, and the format of its annotation files"
ANN_FILES_HELP = (
    "annotation file of each split, relative to ann_root or absolute; splits that are not named have the dataset's "
    "file names: "
) + ", ".join(f"{' or '.join(data.file_names)} for {name}" for name, data in DATASETS.items() if data.file_names)
CAPTION_METRICS_HELP = (
    "without Java or pycocoevalcap: an error (require), or leave BLEU, METEOR, ROUGE-L and CIDEr out (auto)"
)
TF32_HELP = "allow TF32 in float32 matrix products and convolutions on GPUs"
DEVICE_HELP = "auto (a GPU if there is one), cpu, cuda, or cuda:N, for one process only"


class Config(Settings):
    """Settings of training and evaluating VTSUM-BLIP."""

    # The choices of model, task, vit, decoder and the losses repeat the registries of `models`, which import torch; a
    # test compares them.

    ignored: ClassVar[dict[str, IgnoredKey]] = (
        dict.fromkeys(("preload", "skip_nonfinite"), IgnoredKey("a setting of an earlier version"))
        | dict.fromkeys(("result_dir", "ckpt_dir", "logger_pth"), IgnoredKey("derived from output_dir"))
        | {
            name: IgnoredKey("set by torch.distributed.run", value_type)
            for name, value_type in dict(world_size=int, dist_url=str, distributed=bool).items()
        }
    )
    name_aliases: ClassVar[dict[str, str]] = {"print_freq": "log_freq"}  # of the published code
    aliases: ClassVar[dict[str, dict[str, str]]] = {"precision": PRECISION_ALIASES}
    required_values: ClassVar[dict[str, tuple[str, Any]]] = {
        "kernel_size": ("model", "vtsum_blip_tt_ca"),
        "med_config": ("decoder", "blip"),
        "tokenizer": ("decoder", "blip"),
        "smoothing_scope": ("decoder", "blip"),
        "decoder_path": ("decoder", "causal_lm"),
        "decoder_train": ("decoder", "causal_lm"),
        "decoder_lora_rank": ("decoder_train", "lora"),
    }
    written_if_set: ClassVar[frozenset[str]] = frozenset({"vit"})

    # Data
    video_embeddings_root: str = option(
        "dataset/ActivityNet/feat/blip", "folder of frame features, {video_id}.npz", may_change_on_resume=True
    )
    dataset: DatasetName = option("videoxum", DATASET_HELP)
    ann_root: str = option("dataset/ActivityNet/anno", "folder of the annotation files", may_change_on_resume=True)
    ann_files: dict[SplitName, str] = option({}, ANN_FILES_HELP, may_change_on_resume=True)
    clip_root: str = option(
        "dataset/ActivityNet/feat/vt_clipscore",
        "folder of VT-CLIP features; '': no VT-CLIPScore",
        may_change_on_resume=True,
    )
    subset: str = option("", "file of video ids, one per line: train and evaluate on these videos only; '': on all")
    also_subset: str = option(
        "",
        "file of video ids: results also have the scores of these videos, under `subsets`",
        may_change_on_resume=True,
    )
    max_video_length: int = option(512, "training cuts videos to this many frames", ge=1)
    max_text_length: int = option(
        128,
        "maximum length of captions in words, then in tokens with the prompt; also the limit of generated captions",
        ge=2,
    )
    num_workers: int = option(2, "data loader workers per training process", ge=0, may_change_on_resume=True)
    length_bucketing: bool = option(
        False, "train on batches of videos of similar length: less padding, but different batches and loss scale"
    )
    # Weights
    pretrained: str = option(
        "outputs/blip/model_base_capfilt_large.pth",
        "BLIP checkpoint (path, https:// or hf://): initial decoder, and frame encoder of summarize.py; '': random",
    )
    pretrained_model: str = option(
        "", "VTSUM-BLIP checkpoint (path, https:// or hf://) to evaluate, or to start training from"
    )
    pretrained_clip: str = option(
        "outputs/vt_clipscore/vt_clip.pth",
        "text encoder of VT-CLIPScore: VT-CLIP checkpoint, or open_clip:MODEL[@TAG_OR_PATH]; '': no VT-CLIPScore",
        may_change_on_resume=True,
    )
    text_tokenizer: str = option(
        "",
        "folder with the tokenizer of pretrained_clip, if that is an open_clip model that otherwise downloads it",
        may_change_on_resume=True,
    )
    position_init: Literal["blip", "normal"] = option(
        "blip",
        "initial position table of the frames, if training starts from BLIP: copied from BLIP's decoder, or N(0, 1)",
    )
    resume: str = option("auto", RESUME_HELP, may_change_on_resume=True)
    # Model
    model: Literal["vtsum_blip_tt", "vtsum_blip_tt_ca"] = option("vtsum_blip_tt", "architecture")
    model_note: str = option(
        "", "sentence about the model, shown with its summaries and reports; '': none", may_change_on_resume=True
    )
    task: Literal["v2vt", "v2v", "v2t"] = option(
        "v2vt", "both summaries (v2vt), only the visual (v2v) or only the textual one (v2t)"
    )
    vit: Literal["base", "large"] = option(
        "base", "if set, the width that frame features must have: base 768, large 1024, as BLIP's image encoders"
    )
    feature_width: int = option(
        0,
        "width that frame features must have, a multiple of 64 unless feature_projection is true; 0: the first file's",
        ge=0,
    )
    feature_projection: bool = option(
        False, "project the frame features to 768 columns by a learned linear layer, for BLIP's cross-attention"
    )
    tt_depth: int = option(1, "blocks of the temporal transformer; 0: none", ge=0)
    kernel_size: int = option(
        5, "window of the context aggregation in frames: kernel_size // 2 to each side, so that 4 equals 5", ge=1
    )
    med_config: str = option("configs/med_config.json", "sizes of the caption decoder")
    tokenizer: str = option("bert-base-uncased", "hub name, or folder with vocab.txt or tokenizer.json")
    prompt: str = option("a video of ", "beginning of every caption")
    decoder: Literal["blip", "causal_lm"] = option(
        "blip", "caption decoder: BLIP's (blip), or a language model of transformers (causal_lm)"
    )
    decoder_path: str = option(
        "",
        "hub name or folder of the language model of decoder causal_lm",
        may_change_on_resume=True,  # a folder can move: the weights' hash is compared instead
    )
    decoder_train: Literal["projector", "lora", "all"] = option(
        "projector",
        "what decoder causal_lm trains: the projector of frame states alone, LoRA matrices too (peft), or all",
    )
    decoder_lora_rank: int = option(16, "rank of the matrices of decoder_train lora", ge=1)
    image_size: int = option(
        224,
        "side of the frames that summarize.py, and extract_features.py with --config, encode, in pixels",
        ge=1,
        may_change_on_resume=True,
    )
    vit_position_antialias: bool = option(
        True,
        "for another image_size than BLIP's, resample its position table with antialiasing; false: as published",
        may_change_on_resume=True,
    )
    vit_grad_ckpt: bool = option(
        False,
        "activation checkpointing (temporal transformer, decoder): less memory, same result",
        may_change_on_resume=True,
    )
    vit_ckpt_layer: int = option(
        0,
        "number of last layers of each of the two that vit_grad_ckpt applies to; 0: all",
        ge=0,
        may_change_on_resume=True,
    )
    # Losses
    loss_type: Literal["cross_entropy", "l2"] = option("cross_entropy", "key-frame loss")
    smoothing_scope: Literal["published", "scored"] = option(
        "published", "tokens over which the label smoothing of the caption loss is averaged, see QUIRK-2"
    )
    lambda_vsum: float = option(1.0, "weight of the key-frame loss", ge=0)
    lambda_tsum: float = option(1.0, "weight of the caption loss", ge=0)
    # Optimization
    init_lr: float = option(1e-5, "learning rate at the start of the cosine schedule", gt=0)
    min_lr: float = option(0.0, "learning rate at the end of the cosine schedule", ge=0)
    max_epoch: int = option(28, "epochs", ge=1)
    batch_size: int = option(16, "videos per process and batch", ge=1)
    weight_decay: float = option(0.05, "AdamW's weight decay", ge=0)
    seed: int = option(42, "random seed; each process adds its rank", ge=0)
    accumulate: int = option(1, "batches per process and optimizer step", ge=1)
    # Generation and scoring
    eval_batch_size: int = option(
        0, "videos per process and batch in evaluations; 0: batch_size", ge=0, may_change_on_resume=True
    )
    num_beams: int = option(3, "beams of the caption search", ge=1, may_change_on_resume=True)
    min_text_length: int = option(
        10, "minimum length of generated captions in tokens, prompt included", ge=0, may_change_on_resume=True
    )
    splits: tuple[SplitName, ...] = option(("val", "test"), "splits to score", may_change_on_resume=True)
    caption_metrics: CaptionMetrics = option("require", CAPTION_METRICS_HELP, may_change_on_resume=True)
    eval_freq: int = option(0, "epochs between evaluations; 0: only after the last", ge=0, may_change_on_resume=True)
    val_loss: bool = option(
        True,
        "after each epoch, compute the losses of the val split, if there is one; the training is the same without",
        may_change_on_resume=True,
    )
    best_metric: MetricName = option(
        "Kendall",
        "with eval_freq, the metric on val that selects checkpoint_best.pth",
        may_change_on_resume=True,
    )
    evaluate: bool = option(False, "evaluate the weights, without training", may_change_on_resume=True)
    predict_only: bool = option(
        False,
        "evaluation only predicts: annotations need no labels; with ann_root '', every video of video_embeddings_root",
        may_change_on_resume=True,
    )
    # Runtime
    output_dir: str = option("outputs/run", "folder of the run's files", may_change_on_resume=True)
    precision: PrecisionName = option("fp32", "autocast precision; weights, losses and scores stay in float32")
    tf32: bool = option(False, TF32_HELP)
    compile: bool = option(
        False, "train with torch.compile: faster on GPUs after a slow start", may_change_on_resume=True
    )
    device: DeviceName = option("auto", DEVICE_HELP, may_change_on_resume=True)
    ckpt_steps: int = option(
        0,
        "optimizer steps between checkpoints within an epoch; 0: only after each epoch",
        ge=0,
        may_change_on_resume=True,
    )
    ckpt_freq: int = option(
        5, "epochs between snapshots kept in checkpoints/; 0: none", ge=0, may_change_on_resume=True
    )
    keep_last: int = option(0, "number of newest snapshots to keep; 0: all", ge=0, may_change_on_resume=True)
    log_freq: int = option(
        10, "batches between log lines and checks for non-finite values", ge=1, may_change_on_resume=True
    )
    tensorboard: bool = option(False, "log to TensorBoard, in output_dir/tensorboard", may_change_on_resume=True)
    wandb: str = option("", "log to this Weights & Biases project; '': off", may_change_on_resume=True)

    @pydantic.model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if not self.output_dir:
            raise InvalidSetting("output_dir", "found nothing, expected a folder")
        if self.min_lr > self.init_lr:
            raise InvalidSetting("min_lr", f"found {self.min_lr}, expected at most init_lr ({self.init_lr})")
        if self.min_text_length > self.max_text_length:
            limit = f"max_text_length ({self.max_text_length})"
            raise InvalidSetting("min_text_length", f"found {self.min_text_length}, expected at most {limit}")
        if self.decoder == "causal_lm" and self.task != "v2v" and not self.decoder_path:
            raise InvalidSetting("decoder_path", "found nothing, expected the language model of decoder causal_lm")
        return self

    @property
    def has_annotations(self) -> bool:
        """Whether annotation files name the videos; otherwise `predict_only` predicts all videos with features."""
        return bool(self.ann_root or self.ann_files)


class VTClipConfig(Settings):
    """Settings of training VT-CLIP."""

    aliases: ClassVar[dict[str, dict[str, str]]] = {"precision": PRECISION_ALIASES}

    dataset: DatasetName = option("videoxum", DATASET_HELP)
    ann_root: str = option("dataset/ActivityNet/anno", "folder of the annotation files", may_change_on_resume=True)
    ann_files: dict[SplitName, str] = option({}, ANN_FILES_HELP, may_change_on_resume=True)
    vision_root: str = option(
        "dataset/ActivityNet/clip_feat/vt_clipscore",
        "folder of features extracted with the CLIP of `clip`; used if videos is ''",
        may_change_on_resume=True,
    )
    videos: str = option("", "folder or .txt list of videos, to train the image tower too; '': train on features")
    subset: str = option("", "file of video ids, one per line: train and validate on these videos only; '': on all")
    frames: int = option(8, "number of key-frames, and of other frames, drawn from each video", ge=1)
    clip: str = option("ViT-B-16", "CLIP to start from: a file, a URL, or open_clip's name of an OpenAI model")
    resume: str = option("auto", RESUME_HELP, may_change_on_resume=True)
    init_lr: float = option(1e-5, "learning rate at the start of the cosine schedule", gt=0)
    min_lr: float = option(0.0, "learning rate at the end of the cosine schedule", ge=0)
    max_epoch: int = option(10, "epochs", ge=1)
    batch_size: int = option(32, "videos per process and batch; contrasted across all processes", ge=2)
    weight_decay: float = option(0.05, "AdamW's weight decay", ge=0)
    precision: Literal["auto", PrecisionName] = option(
        "auto", "autocast precision; auto: bf16 on GPUs, fp32 on CPUs; weights and the loss stay in float32"
    )
    tf32: bool = option(False, TF32_HELP)
    seed: int = option(42, "random seed; each process adds its rank", ge=0)
    num_workers: int = option(2, "data loader workers per training process", ge=0, may_change_on_resume=True)
    output_dir: str = option("outputs/vt_clip", "folder of the run's files", may_change_on_resume=True)
    device: DeviceName = option("auto", DEVICE_HELP, may_change_on_resume=True)
    log_freq: int = option(
        10, "batches between log lines and checks for non-finite values", ge=1, may_change_on_resume=True
    )


TrainingConfig = Config | VTClipConfig


def load_config(
    argv: Sequence[str] | None = None,
    description: str | None = None,
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None,
) -> CommandLine[Config]:
    """Build the `Config` of a command line; see `utils.command_line.load_settings`."""
    return load_settings(Config, argv, description, add_arguments)


if __name__ == "__main__":
    print(reference_table(Config))
