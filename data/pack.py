"""Pack a folder of feature files: `python -m data.pack --features DIR --annotations FILE… --out DIR`.

The videos of each annotation file are packed into one safetensors file. The output folder replaces the folder of `.npz`
files in `video_embeddings_root` (or `clip_root`, with `--field vision`).
"""

import os
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np
import safetensors.numpy

from data.feature_writer import PROVENANCE_FILE, read_provenance
from data.features import PACKED_FORMAT, check_files, load_features, packed_files
from data.registry import add_dataset_option, load_annotations
from utils.command_line import OneLineParser
from utils.files import atomic_write, make_folder, remove_leftovers
from utils.log import progress_bar, run_main

DTYPES = ("float32", "float16")


def pack_features(
    features: str | os.PathLike,
    annotations: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    dataset: str = "videoxum",
    field: str,
    dtype: str,
) -> None:
    """Pack the videos of each annotation file and print a line for each file; holds one split in memory.

    Args:
        features: folder of `{video_id}.npz`.
        annotations: annotation files; `{name}_videoxum.json` or `{name}.json` becomes `{name}.safetensors`.
        out: folder of the packed features, created if missing.
        dataset: format of the annotation files, a key of `DATASETS`.
        field: array to pack, `features` of BLIP or `vision` of VT-CLIP.
        dtype: one of `DTYPES`.
    Raises:
        FileNotFoundError, ValueError: invalid annotations or features, a value outside the range of `dtype`, videos of
            different widths.
    """
    splits = {
        pathlib.Path(path).stem.removesuffix("_videoxum"): load_annotations(path, dataset=dataset, needs=())
        for path in annotations
    }
    if len(splits) < len(annotations):
        raise ValueError("annotations: found two files of the same name, expected a name for each split")
    for records in splits.values():
        check_files(features, [record.video_id for record in records], "features")
    if pathlib.Path(out).resolve() == pathlib.Path(features).resolve():
        raise ValueError(f"{out}: out: found the folder of the features, expected another")
    out = make_folder(out, "out")
    remove_leftovers(out)
    _copy_provenance(pathlib.Path(features, PROVENANCE_FILE), out / PROVENANCE_FILE)
    for name, records in splits.items():
        with progress_bar(records, True, desc=name, unit="video") as bar:
            tensors = {record.video_id: _read(features, record.video_id, field, dtype) for record in bar}
        widths = sorted({tensor.shape[1] for tensor in tensors.values()})
        if len(widths) > 1:
            raise ValueError(f"{features}: {field}: found widths {widths[0]} to {widths[-1]}, expected one")
        metadata = dict(format=PACKED_FORMAT, field=field, source=str(features))
        path = out / f"{name}.safetensors"
        with atomic_write(path, "wb", durable=False) as file:  # `save_file`: `save` would take three times the memory
            safetensors.numpy.save_file(tensors, file.name, metadata=metadata)
        print(f"{path}: {len(records)} videos, {sum(map(len, tensors.values()))} frames, {dtype}")


def _copy_provenance(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy the provenance of the features; packed features of another provenance are not mixed with them."""
    if packed_files(target.parent) and read_provenance(target) != read_provenance(source):
        raise ValueError(
            f"{target}: found packed features of another provenance than {source}, expected the same; use another --out"
        )
    if source.is_file():
        shutil.copyfile(source, target)


def _read(features: str | os.PathLike, video_id: str, field: str, dtype: str) -> np.ndarray:
    """Read a video's features as (T, D) of `dtype`."""
    array = load_features(features, video_id, field)
    with np.errstate(over="ignore"):
        packed = np.ascontiguousarray(array, dtype)
    if not np.isfinite(packed).all():
        largest = np.abs(array).max()
        raise ValueError(f"{features}: video {video_id}: {field}: found {largest:g}, too large for {dtype}")
    return packed


def main(argv: list[str] | None = None) -> None:
    parser = OneLineParser(prog="python -m data.pack", description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder of the packed features")
    parser.add_argument("--features", required=True, help="folder of {video_id}.npz")
    parser.add_argument("--annotations", required=True, nargs="+", help="annotation files; each becomes a packed file")
    add_dataset_option(parser)
    parser.add_argument("--field", default="features", help="array to pack: features of BLIP, vision of VT-CLIP")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="float16 halves the size and rounds")
    args = parser.parse_args(argv)
    pack_features(args.features, args.annotations, args.out, dataset=args.dataset, field=args.field, dtype=args.dtype)


if __name__ == "__main__":
    run_main(main)
