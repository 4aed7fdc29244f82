"""Feature extraction end to end, compared with the image encoder alone on decoded frames.

ViT-B/16 at 224 pixels with random weights (the speed does not depend on them). The videos are those of the folder
`VTSUM_CLIPS`, or one that is synthesized.

It runs in a new process, with the OpenMP setting of `extract_features.py`.

Axes: n frames of a chunk, S image side.
"""

import contextlib
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from benchmarks.machine import has_bf16_instructions, time_call
from benchmarks.records import Row
from data.video.decoding import DecodeJob, FrameChunk, decode
from data.video.files import find_videos
from data.video.preprocessing import preprocess
from data.video.reader import VideoFile, to_upright_rgb
from engine.extraction import count_default_workers, encode_videos
from models.frame_encoders import FrameEncoder
from utils.device import setup_device
from utils.frame_transform import FrameTransform
from utils.precision import PrecisionName

IMAGE_SIZE = 224
CHUNK = 32  # default of `extract_features.py --batch_size`


def build_random_frame_encoder(depth: int, precision: PrecisionName, device: str | torch.device) -> FrameEncoder:
    """Build a frame encoder of ViT-B's width with random weights.

    Args:
        depth: number of blocks; 12 is ViT-B.
        precision: autocast precision.
        device: device of the encoder.
    """
    vit = VisionTransformer(depth=depth, num_classes=0)
    return FrameEncoder(vit, FrameTransform(IMAGE_SIZE), precision).eval().to(device)


def write_video(
    path: pathlib.Path, seconds: int, *, width: int = 640, height: int = 360, frames_per_second: int = 25
) -> None:
    """Write an H.264 video: a view that moves over a noisy image, with a cut every ten seconds."""
    import av

    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=frames_per_second)
        stream.width = width
        stream.height = height
        stream.pix_fmt = "yuv420p"
        for i in range(seconds * frames_per_second):
            step = i % (10 * frames_per_second)
            if step == 0:
                coarse = rng.integers(0, 256, (height // 20 + 40, width // 20 + 40, 3), np.uint8)
                scene = coarse.repeat(20, 0).repeat(20, 1) // 2 + rng.integers(0, 64, 3, np.uint8)
                scene += rng.integers(0, 24, scene.shape, np.uint8)
            view = np.ascontiguousarray(scene[step : step + height, 2 * step : 2 * step + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, "rgb24")))
        container.mux(stream.encode())


@contextlib.contextmanager
def benchmark_videos(seconds: int) -> Iterator[tuple[str, list[str]]]:
    """Provide the videos: their description, and paths.

    Args:
        seconds: duration of the synthesized video.
    """
    folder = os.environ.get("VTSUM_CLIPS")
    if folder:
        paths = [str(path) for path in find_videos([folder]).values()]
        yield f"{len(paths)} videos of VTSUM_CLIPS", paths
        return
    with tempfile.TemporaryDirectory() as temporary:
        path = pathlib.Path(temporary, "video.mp4")
        write_video(path, seconds)
        yield f"a synthesized video, H.264, 640 x 360, {seconds} s", [str(path)]


def time_extraction(paths: Sequence[str], encoder: FrameEncoder) -> tuple[list[np.ndarray], float]:
    """Extract videos in one run, as `extract_features.py` does.

    Args:
        paths: the videos.
        encoder: encoder of the frames.
    Returns:
        Features of each video, and seconds, without the start of the processes and the first chunk.
    Raises:
        ValueError: a video cannot be decoded.
    """
    warm_up = DecodeJob("warm-up", paths[0], CHUNK)  # after it, the next chunk is decoded
    jobs = [DecodeJob(str(i), path) for i, path in enumerate(paths)]
    features: dict[DecodeJob, np.ndarray] = {}
    start = 0.0
    for result, arrays in encode_videos(
        [warm_up, *jobs], {"blip": encoder}, chunk=CHUNK, workers=count_default_workers()
    ):
        if result.reason:
            raise ValueError(result.reason)
        if result.job == warm_up:
            start = time.perf_counter()
        features[result.job] = arrays["blip"]
    return [features[job] for job in jobs], time.perf_counter() - start


def decode_chunks(path: str, transform: FrameTransform) -> list[torch.Tensor]:
    """Decode and preprocess a video: (n, S, S, 3) uint8 for each chunk of at most `CHUNK` frames."""
    events = decode(DecodeJob("", path), {"blip": transform}, CHUNK)
    return [torch.as_tensor(event.pixels["blip"]) for event in events if isinstance(event, FrameChunk)]


def measure_decoding(paths: Sequence[str], transform: FrameTransform) -> tuple[float, float]:
    """Measure decoding and preprocessing in one thread: seconds per sampled frame."""
    decoded, decoding_seconds = time_call(
        lambda: [frame for path in paths for _, frame in VideoFile(path).iter_sampled_frames()]
    )
    _, preprocessing_seconds = time_call(lambda: [preprocess(to_upright_rgb(frame), transform) for frame in decoded])
    return decoding_seconds / len(decoded), preprocessing_seconds / len(decoded)


def benchmark_extraction(device: torch.device, *, depth: int = 12, num_frames: int = 128, rounds: int = 3) -> list[Row]:
    """Compare the extraction with the encoder alone, in fp32 and, where the hardware supports it, in bf16.

    Args:
        device: device of the encoder.
        depth: blocks of the encoder; 12 is ViT-B.
        num_frames: frames of a measurement, at least; the videos are repeated.
        rounds: number of alternating measurements.
    """
    words = [sys.executable, "-m", __name__, str(device), str(depth), str(num_frames), str(rounds)]
    env = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    completed = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=env)
    return [Row.model_validate_json(line) for line in completed.stdout.splitlines() if line.startswith("{")]


def measure_extraction(device: torch.device, depth: int, num_frames: int, rounds: int) -> Iterator[Row]:
    """Measure in this process; arguments as in `benchmark_extraction`."""
    precisions: list[PrecisionName] = ["fp32"]
    if device.type != "cpu" or has_bf16_instructions():
        precisions.append("bf16")
    with benchmark_videos(num_frames // 2) as (description, paths):
        for precision in precisions:
            yield _compare(device, depth, precision, description, paths, num_frames, rounds)


def _compare(
    device: torch.device,
    depth: int,
    precision: PrecisionName,
    description: str,
    paths: Sequence[str],
    num_frames: int,
    rounds: int,
) -> Row:
    encoder = build_random_frame_encoder(depth, precision, device)
    chunks = {path: decode_chunks(path, encoder.transform) for path in paths}
    repeats = math.ceil(num_frames / sum(len(chunk) for path in paths for chunk in chunks[path]))
    jobs = [*paths] * repeats
    encoder(chunks[paths[0]][0])  # warm-up

    def encode_alone() -> list[np.ndarray]:
        return [torch.cat([encoder(chunk).cpu() for chunk in chunks[path]]).numpy() for path in jobs]

    encoder_seconds: list[float] = []
    extraction_seconds: list[float] = []
    for _ in range(rounds):
        expected, seconds = time_call(encode_alone)
        encoder_seconds.append(seconds)
        features, seconds = time_extraction(jobs, encoder)
        extraction_seconds.append(seconds)
        assert all(map(np.array_equal, features, expected)), f"{precision}: the features differ"
    count = sum(map(len, expected))
    decoding_seconds, preprocessing_seconds = measure_decoding(paths, encoder.transform)
    check = f"the same features; decoding {1000 * decoding_seconds:.1f} ms, preprocessing "
    check += f"{1000 * preprocessing_seconds:.1f} ms per frame"
    if device.type == "cpu":  # the cores are shared with the encoder
        encoding_seconds = torch.get_num_threads() * statistics.median(encoder_seconds) / count
        bound = encoding_seconds / (encoding_seconds + decoding_seconds + preprocessing_seconds)
        check += f": on {torch.get_num_threads()} cores, the ratio is at most {bound:.2f}"
    ratios = [alone / extraction for alone, extraction in zip(encoder_seconds, extraction_seconds)]
    return Row(
        measurement=f"extraction, {precision}, {count} frames of {description}",
        project_value=count / statistics.median(extraction_seconds),
        unit="frames/s",
        peer_value=count / statistics.median(encoder_seconds),
        peer_name="the encoder alone",
        ratio=statistics.median(ratios),
        check=check,
    )


if __name__ == "__main__":
    for measured_row in measure_extraction(setup_device(sys.argv[1]), *map(int, sys.argv[2:])):
        print(measured_row.model_dump_json())
