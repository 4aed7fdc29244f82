"""Compare the speed of feature extraction with that of the encoder alone: `python -m benchmarks.extraction VIDEO`.

ViT-B/16 at 224 pixels with random weights (the speed does not depend on them), by default in float32. Rates are frames
at 1 fps per second of wall time. "together" is what `extract_features.py` does, without the start of its processes; its
ratio to "encode" is the cost of decoding. The two are measured in alternation, so that a drift of the machine's speed
affects both equally.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from timm.models.vision_transformer import VisionTransformer

from data.video.decoding import DecodeJob, FrameChunk, decode
from data.video.preprocessing import preprocess
from data.video.reader import VideoFile, to_upright_rgb
from engine.extraction import count_default_workers, encode_videos
from models.frame_encoders import FrameEncoder
from utils.frame_transform import FrameTransform
from utils.log import run_main
from utils.precision import PRECISION_NAMES, PrecisionName

if TYPE_CHECKING:
    import av

IMAGE_SIZE = 224


def build_random_frame_encoder(depth: int, precision: PrecisionName, device: str) -> FrameEncoder:
    """Build a frame encoder of ViT-B's width with random weights.

    Args:
        depth: number of blocks; 12 is ViT-B.
        precision: autocast precision.
        device: device of the encoder.
    """
    vit = VisionTransformer(depth=depth, num_classes=0)
    return FrameEncoder(vit, FrameTransform(IMAGE_SIZE), precision).eval().to(device)


def measure_frame_rate(num_frames: int, function: Callable[[], object]) -> float:
    """Call a function that processes `num_frames` frames; returns frames per second, host sync included."""
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return num_frames / (time.perf_counter() - start)


def measure_extraction_rate(
    path: str, encoder: FrameEncoder, *, batch_size: int, num_workers: int, repeat: int
) -> float:
    """Extract a video several times in one run; returns frames per second, without the start of the processes.

    Args:
        path: path of the video.
        encoder: encoder of the frames.
        batch_size: frames that are encoded together.
        num_workers: decoding processes.
        repeat: number of extractions.
    Raises:
        ValueError: the video cannot be decoded.
    """
    warm_up = DecodeJob("0", path, 1)
    jobs = [warm_up, *(DecodeJob(str(i), path) for i in range(1, 1 + repeat))]
    num_frames = 0
    start: float | None = None  # when the first job is done
    for result, features in encode_videos(jobs, {"blip": encoder}, chunk=batch_size, workers=num_workers):
        if result.reason:
            raise ValueError(result.reason)
        if start is None:
            start = time.perf_counter()
        else:
            num_frames += len(features["blip"])
    assert start is not None
    return num_frames / (time.perf_counter() - start)


def decode_chunks(path: str, transform: FrameTransform, batch_size: int) -> list[torch.Tensor]:
    """Decode and preprocess a video: (n, S, S, 3) uint8 for each chunk of at most `batch_size` frames."""
    events = decode(DecodeJob("", path), {"blip": transform}, batch_size)
    return [torch.as_tensor(event.pixels["blip"]) for event in events if isinstance(event, FrameChunk)]


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extraction", description=__doc__.splitlines()[0])
    parser.add_argument("video")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=PRECISION_NAMES, default="fp32")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--num_workers", type=int, default=count_default_workers())
    parser.add_argument("--repeat", type=int, default=4, help="extractions of the video in one run")
    parser.add_argument("--rounds", type=int, default=3, help="alternating measurements")
    parser.add_argument("--depth", type=int, default=12, help="blocks of the encoder; 12 is ViT-B")
    return parser.parse_args(argv)


def _print_decoding_rates(path: str, frames: "list[av.VideoFrame]", transform: FrameTransform) -> None:
    """Measure and print the rates of decoding and of preprocessing."""
    rate = measure_frame_rate(len(frames), lambda: list(VideoFile(path).iter_sampled_frames()))
    print(f"decode      {rate:8.1f} frames/s, one thread")
    rate = measure_frame_rate(len(frames), lambda: [preprocess(to_upright_rgb(frame), transform) for frame in frames])
    print(f"preprocess  {rate:8.1f} frames/s, one thread")


def _print_encoding_rates(args: argparse.Namespace, encoder: FrameEncoder, chunks: list[torch.Tensor]) -> None:
    """Measure and print the rates of the encoder alone and of the whole extraction."""
    num_frames = sum(map(len, chunks)) * args.repeat
    encoder_rates: list[float] = []
    extraction_rates: list[float] = []
    for _ in range(args.rounds):
        encoder_rates.append(
            measure_frame_rate(num_frames, lambda: [encoder(chunk).cpu() for chunk in chunks * args.repeat])
        )
        extraction_rates.append(
            measure_extraction_rate(
                args.video, encoder, batch_size=args.batch_size, num_workers=args.num_workers, repeat=args.repeat
            )
        )
    ratios = [extraction / alone for extraction, alone in zip(extraction_rates, encoder_rates)]
    print(f"encode      {statistics.median(encoder_rates):8.1f} frames/s on ready pixels")
    print(f"together    {statistics.median(extraction_rates):8.1f} frames/s")
    listed = " ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"together / encode: {statistics.median(ratios):.2f} (rounds: {listed})")


def main(argv: Sequence[str] | None = None) -> None:
    args = _parse_arguments(argv)
    encoder = build_random_frame_encoder(args.depth, args.precision, args.device)
    video = VideoFile(args.video)
    frames = [frame for _, frame in video.iter_sampled_frames()]
    image = to_upright_rgb(frames[0])
    chunks = decode_chunks(args.video, encoder.transform, args.batch_size)
    encoder(chunks[0])  # warm-up
    print(f"{args.video}: {len(frames)} of {len(video.timeline.starts)} frames, {image.width} x {image.height}")
    print(f"{args.device}, {args.precision}, {torch.get_num_threads()} threads, {args.num_workers} decoding processes")
    _print_decoding_rates(args.video, frames, encoder.transform)
    _print_encoding_rates(args, encoder, chunks)


if __name__ == "__main__":
    run_main(main)
