"""Pack a folder of feature files: `python -m data.pack --features DIR --annotations FILE… --out DIR`.

Each annotation file becomes one memory-mapped file (see `data.store`); the output folder is then named in
`video_embeddings_root` (or `clip_root`, with `--field vision`) in place of the folder of `.npz` files.
"""

import pathlib
import shutil

from tqdm import tqdm

from data.annotations import load_annotations
from data.feature_folder import RECORD
from data.features import check_files, load_features
from data.store import DTYPES, indices, verify, write_store
from utils.command_line import OneLineParser
from utils.files import make_folder, remove_leftovers
from utils.log import run_main


def pack(features, annotations, out, *, field, dtype):
    """Pack the videos of each annotation file; prints a line for each."""
    lists = {pathlib.Path(path).stem.removesuffix("_videoxum"): load_annotations(path) for path in annotations}
    if len(lists) < len(annotations):
        raise ValueError("annotations: found two files of one name, expected a name for each split")
    for records in lists.values():
        check_files(features, [record.video_id for record in records], "features")
    if pathlib.Path(out).resolve() == pathlib.Path(features).resolve():
        raise ValueError(f"{out}: out: found the folder of the features, expected another")
    out = make_folder(out, "out")
    remove_leftovers(out)
    note = pathlib.Path(features, RECORD)
    if note.is_file():  # what the features were made with
        shutil.copyfile(note, out / RECORD)
    for name, records in lists.items():
        bar = tqdm(records, desc=name, unit="video", disable=None)
        videos = ((record.video_id, load_features(features, record.video_id, field)) for record in bar)
        frames = write_store(out, name, videos, field=field, source=features, dtype=dtype)
        print(f"{out / name}.npy: {len(records)} videos, {frames} frames, {dtype}")


def main(argv=None):
    parser = OneLineParser(prog="python -m data.pack", description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder of the packed features")
    parser.add_argument("--features", help="folder of {video_id}.npz")
    parser.add_argument("--annotations", nargs="+", help="annotation files: which videos, and a packed file for each")
    parser.add_argument("--field", default="features", help="array to pack: features of BLIP, vision of VT-CLIP")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="float16 takes half the space and rounds")
    parser.add_argument("--verify", action="store_true", help="compare --out with its checksums, and pack nothing")
    args = parser.parse_args(argv)
    if args.verify:
        if not indices(args.out):
            raise FileNotFoundError(f"{args.out}: out: found no packed features")
        for path in indices(args.out):
            verify(path)
            print(f"{path.with_suffix('.npy')}: as it was packed")
    elif args.features and args.annotations:
        pack(args.features, args.annotations, args.out, field=args.field, dtype=args.dtype)
    else:
        raise ValueError("--features and --annotations are needed (or --verify)")


if __name__ == "__main__":
    run_main(main)
