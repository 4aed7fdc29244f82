"""Speed of feature extraction, beside that of the encoder alone: `python -m benchmarks.extraction VIDEO`.

ViT-B/16 at 224 pixels with random weights (the speed does not depend on them), in float32 on the CPU unless told
otherwise. Rates are frames at 1 fps per second of wall time. "Together" is what `extract_features.py` does, after its
processes have started; its ratio to "encode" is what decoding costs. Encoder alone and together take turns, so that a
machine whose speed drifts does not favour one.
"""

import argparse
import statistics
import time

import torch
from timm.models.vision_transformer import VisionTransformer

from data.video.decoding import DecodeJob, decode
from data.video.preprocessing import preprocess
from data.video.reader import VideoFile, to_upright_rgb
from engine.extraction import default_workers, encode_videos
from models.frame_encoders import PRECISIONS, FrameEncoder
from utils.frame_transform import FrameTransform
from utils.log import run_main


def rate(frames, work):
    """Run `work`, which handles `frames` frames; returns frames per second."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return frames / (time.perf_counter() - start)


def together(path, encoder, args):
    """Extract the video `repeat` times in one go; returns frames per second without the start of the processes."""
    jobs = [DecodeJob(str(i), path, None if i else 1) for i in range(1 + args.repeat)]  # the first, one frame, warms up
    frames, start = 0, None
    for end, features in encode_videos(jobs, {"blip": encoder}, chunk=args.batch_size, workers=args.num_workers):
        if end.reason:
            raise ValueError(end.reason)
        if start is None:
            start = time.perf_counter()
        else:
            frames += len(features["blip"])
    return frames / (time.perf_counter() - start)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extraction", description=__doc__.splitlines()[0])
    parser.add_argument("video")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--num_workers", type=int, default=default_workers())
    parser.add_argument("--repeat", type=int, default=4, help="times that the video is extracted in one go")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--depth", type=int, default=12, help="blocks of the encoder; 12 is ViT-B")
    args = parser.parse_args(argv)

    transform = FrameTransform(224)
    encoder = (
        FrameEncoder(VisionTransformer(depth=args.depth, num_classes=0), transform, args.precision)
        .eval()
        .to(args.device)
    )
    video = VideoFile(args.video)
    pictures = [frame for _, frame in video.iter_sampled_frames()]
    T = len(pictures)
    images = [to_upright_rgb(frame) for frame in pictures]
    (*chunks, _) = decode(DecodeJob("", args.video), {"blip": transform}, args.batch_size)
    ready = [torch.as_tensor(frames.pixels["blip"]) for frames in chunks]
    encoder(ready[0])
    print(f"{args.video}: {T} frames of {images[0].width} x {images[0].height}, {len(video.timeline.starts)} pictures")
    print(f"{args.device}, {args.precision}, {torch.get_num_threads()} threads, {args.num_workers} decoding processes")
    print(f"decode      {rate(T, lambda: list(VideoFile(args.video).iter_sampled_frames())):8.1f} frames/s, one thread")
    pixels = rate(T, lambda: [preprocess(to_upright_rgb(frame), transform) for frame in pictures])
    print(f"preprocess  {pixels:8.1f} frames/s, one thread")

    alone, whole = [], []
    for _ in range(args.rounds):
        alone.append(rate(T * args.repeat, lambda: [encoder(chunk).cpu() for chunk in ready * args.repeat]))
        whole.append(together(args.video, encoder, args))
    ratios = [w / a for w, a in zip(whole, alone)]
    print(f"encode      {statistics.median(alone):8.1f} frames/s on ready pixels")
    print(f"together    {statistics.median(whole):8.1f} frames/s")
    spread = " ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"together / encode: {statistics.median(ratios):.2f} (rounds: {spread})")


if __name__ == "__main__":
    run_main(main)
