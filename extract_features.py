"""Extract frame features from videos, in the published layout.

    python -m torch.distributed.run --nproc_per_node=4 extract_features.py --videos VIDEOS \\
        --out dataset/ActivityNet/feat --annotations dataset/ActivityNet/anno/*_videoxum.json

    OUT/blip/{video_id}.npz           features (T, 768 or 1024)
    OUT/vt_clipscore/{video_id}.npz   vision (T, 512), with annotations also text (1, 512)

Other encoders: --encoder timm:vit_base_patch16_dinov3.lvd1689m open_clip:ViT-B-16-SigLIP2=siglip2

    OUT/siglip2/{video_id}.npz        features (T, D), with annotations and a text encoder also text (1, D)
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence

from data.registry import add_dataset_option
from engine.config import Config
from utils.command_line import CHECK_PASSED, OneLineParser, add_check_option, parse_bool
from utils.device_names import check_device_name
from utils.encoder_names import BLIP_WEIGHTS, NAME_FORMS, VT_CLIP_WEIGHTS, WEIGHTS_SUFFIXES, EncoderName
from utils.log import run_main
from utils.precision import PRECISION_NAMES, canonical_precision
from utils.settings import read_settings
from utils.text import is_file_name


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--videos", nargs="+", required=True, metavar="PATH", help="folder, .txt list of paths, or video files")
    add("--out", required=True, help="output folder, with a subfolder per encoder: blip/, vt_clipscore/, ...")
    add("--blip", help=f"checkpoint (path or URL) with BLIP's image encoder; '': no BLIP features ({BLIP_WEIGHTS})")
    add(
        "--vt_clip",
        help=f"VT-CLIP or CLIP: file, URL or name on open_clip's hub; '': no such features ({VT_CLIP_WEIGHTS})",
    )
    add(
        "--encoder",
        nargs="+",
        type=_encoder,
        default=[],
        metavar="NAME[=FOLDER]",
        help=f"encoders, in place of the defaults of --blip and --vt_clip, and subfolders of OUT: {NAME_FORMS}",
    )
    add(
        "--text_tokenizer",
        default="",
        metavar="FOLDER",
        help="tokenizer of open_clip models that otherwise download it from the Hugging Face hub",
    )
    add("--annotations", nargs="+", default=[], metavar="FILE", help="annotation files: numbers of frames, captions")
    add_dataset_option(parser)
    add(
        "--config",
        metavar="YAML",
        help="configuration of a run: defaults of --image_size, --vit_position_antialias and --blip (`pretrained`)",
    )
    add(
        "--image_size",
        type=int,
        help="side of BLIP's frames in pixels (default: the size of the checkpoint, or --config)",
    )
    add(
        "--vit_position_antialias",
        type=parse_bool,
        metavar="BOOL",
        help="for another size than BLIP's, resample its position table with antialiasing; false: as published (true)",
    )
    add("--precision", type=canonical_precision, choices=PRECISION_NAMES, default="fp32", help="(%(default)s)")
    add("--batch_size", type=int, default=32, help="frames per batch of the encoders (%(default)s)")
    add("--num_workers", type=int, help="decoding processes per process (default: its share of the cores)")
    add("--device", type=_device, default="auto", help="auto, cpu, cuda, or cuda:N for one process (%(default)s)")
    add("--overwrite", action="store_true", help="replace existing features, and remove those of other settings")
    add_check_option(parser)
    args = parser.parse_args(argv)
    _apply_config(args)
    for name, least in dict(image_size=1, batch_size=1, num_workers=0).items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name}: found {value}, expected at least {least}")
    return args


def _apply_config(args: argparse.Namespace) -> None:
    """Set the arguments that were not given to the values of `--config`, and `pretrained` to BLIP's default weights."""
    values = read_settings(args.config, Config) if args.config else {}
    config = Config(**values)
    args.pretrained = config.pretrained
    if args.image_size is None and "image_size" in values:
        args.image_size = config.image_size
    if args.vit_position_antialias is None:
        args.vit_position_antialias = config.vit_position_antialias


def _device(text: str) -> str:
    try:
        return check_device_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _encoder(text: str) -> tuple[EncoderName, str]:
    """Parse NAME[=FOLDER]: the name, and the folder or its default.

    A name may have `=` in a path, or in the query or fragment of a URL, such as `#sha256=…`.
    """
    name, separator, folder = text.rpartition("=")
    is_of_name = folder.endswith(WEIGHTS_SUFFIXES) or re.search(r"[?&#][\w.-]*$", name)
    try:
        if separator and is_file_name(folder) and not is_of_name:
            return EncoderName.parse(name), folder
        encoder = EncoderName.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return encoder, encoder.folder


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse_arguments(argv)
    # Read when PyTorch is imported: its waiting threads leave their cores to the decoders instead of spinning.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from engine.extraction_inputs import find_inputs

    inputs = find_inputs(args)  # before PyTorch is imported
    if args.check:
        print(CHECK_PASSED)
        return
    from engine.extraction import run_extraction

    if run_extraction(args, inputs):
        sys.exit(1)


if __name__ == "__main__":
    run_main(main, resumable=True)
