"""How the cost grows with frames, tokens, beams, batch and videos; and a three-hour video in bounded memory."""

import pathlib
import subprocess
import sys

import numpy as np
import torch

from benchmarks.decoding import lively, search
from benchmarks.machine import seconds
from benchmarks.scoring import draw, timed
from benchmarks.workload import draw_videos, full_size_model
from metrics import keyframe_scores

THREE_HOURS = 10_800


def exponent(sizes, times):
    """Power of the size that the time grows with, by least squares on logarithms; 1 is linear."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def row(what, sizes, times):
    shown = ", ".join(f"{size}: {time:.2f} s" for size, time in zip(sizes, times))
    return dict(what=f"growth with {what}", project=exponent(sizes, times), unit="power", check=shown)


def run(device, *, model_options=None, frames=(1350, 2700, 5400, 10_800), batch=(4, 8, 16), tokens=(12, 20, 36)):
    """Time one thing at a time on the full-size model."""
    model = lively(full_size_model(**(model_options or {})).to(device))

    def encode(T):
        videos = [x.to(device) for x in draw_videos([T])[:2]]
        with torch.no_grad():
            return seconds(lambda: model.encode(*videos), device, 1)

    def decode(B=8, K=3, L=12, T=120):
        videos = [x.to(device) for x in draw_videos([T] * B)[:2]]
        return seconds(lambda: search(model, *videos, num_beams=K, max_length=L), device, 1)

    counts = (500, 1000, 2000)
    scored = [timed(lambda n=n: [keyframe_scores(*video) for video in zip(*draw(n))])[1] for n in counts]
    return [
        row("frames, TT and CA (T² in the TT's attention)", frames, [encode(T) for T in frames]),
        row("videos of a batch, beam search", batch, [decode(B=B) for B in batch]),
        row("tokens, beam search", tokens, [decode(L=L) for L in tokens]),
        row("beams", (1, 2, 4), [decode(K=K) for K in (1, 2, 4)]),
        row("videos that are scored", counts, scored),
        three_hours(),
    ]


def three_hours():
    """Peak memory of summarising a three-hour video and a one-hour one, each in a process of its own."""
    peaks = []
    for T in (THREE_HOURS // 3, THREE_HOURS):
        done = subprocess.run([sys.executable, "-m", __name__, str(T)], capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout.split()[-1]))
    check = f"one hour: {peaks[0]:.1f} GB"
    return dict(what=f"peak memory, {THREE_HOURS} frames through generate", project=peaks[1], unit="GB", check=check)


def main(T):
    model = lively(full_size_model())
    _, saliency = model.generate(*draw_videos([T])[:2], num_beams=3, max_length=16)
    assert saliency.shape == (T,) and torch.isfinite(saliency).all()
    # Not getrusage, which counts what the process that started this one had.
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM:")))


if __name__ == "__main__":
    main(int(sys.argv[1]))
