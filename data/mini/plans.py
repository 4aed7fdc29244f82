"""Plans of the videos of mini VideoXum: which shape performs which action when, and the sentences about it.

Axes: T frames at 1 fps.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

import numpy as np

COLORS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "triangle")
ACTIONS = ("bounces", "spins", "grows", "slides", "blinks")
OPENINGS = ("", "then ", "finally ")


@dataclasses.dataclass(frozen=True)
class Event:
    """An action of a colored shape.

    Attributes:
        color: one of `COLORS`.
        shape: one of `SHAPES`.
        action: one of `ACTIONS`.
        start: first second.
        stop: second after the last.
        peak: time of the highest strength, in seconds.
    """

    color: str
    shape: str
    action: str
    start: int
    stop: int
    peak: float

    def describe(self, position: int) -> str:
        """Build the sentence about the event.

        Args:
            position: index of the event in its video; selects the opening.
        """
        return f"{OPENINGS[position]}a {self.color} {self.shape} {self.action}.".capitalize()

    def compute_strength(self, seconds: float | np.ndarray) -> np.ndarray:
        """Compute the strength at given times: 1 at the peak, lower with the distance to it, 0 outside the event.

        Args:
            seconds: times, of any shape.
        Returns:
            float64 of the same shape.
        """
        spread = 0.12 * (self.stop - self.start) + 0.8
        bump = np.exp(-0.5 * ((seconds - self.peak) / spread) ** 2)
        return bump * ((seconds >= self.start) & (seconds < self.stop))


@dataclasses.dataclass(frozen=True)
class VideoPlan:
    """Plan of one video.

    Attributes:
        video_id: its name, and that of its files.
        duration: seconds.
        num_frames: T, the duration rounded up.
        events: in order, without overlap.
    """

    video_id: str
    duration: float
    num_frames: int
    events: tuple[Event, ...]

    @property
    def frame_times(self) -> np.ndarray:
        """(T,) middle of each second."""
        return np.arange(self.num_frames) + 0.5

    @property
    def tsum(self) -> list[str]:
        """One sentence per event."""
        return [event.describe(position) for position, event in enumerate(self.events)]

    def find_event(self, second: float) -> Event | None:
        """Return the event at a time, or None."""
        return next((event for event in self.events if event.start <= second < event.stop), None)


def plan_videos(seed: int, counts: Mapping[str, int]) -> dict[str, list[VideoPlan]]:
    """Draw the plans of all splits.

    Args:
        seed: random seed of the generator.
        counts: split -> number of videos.
    Returns:
        split -> plans.
    """
    rng = np.random.default_rng(seed)
    return {split: [_plan_video(rng, f"mini_{split}_{i:03d}") for i in range(count)] for split, count in counts.items()}


def _plan_video(rng: np.random.Generator, video_id: str) -> VideoPlan:
    events: list[Event] = []
    second = 0
    for _ in range(int(rng.integers(2, 4))):
        start = second + int(rng.integers(1, 4))
        stop = start + int(rng.integers(8, 17))
        peak = float(start + rng.uniform(0.2, 0.8) * (stop - start))
        color = COLORS[rng.integers(4)]
        shape = SHAPES[rng.integers(3)]
        action = ACTIONS[rng.integers(5)]
        events.append(Event(color, shape, action, start, stop, peak))
        second = stop
    num_frames = second + int(rng.integers(1, 4))
    duration = round(num_frames - float(rng.uniform(0, 0.9)), 2)
    return VideoPlan(video_id, duration, num_frames, tuple(events))


def iter_sentences() -> Iterator[str]:
    """Yield every sentence of the grammar."""
    for position, color, shape, action in itertools.product(range(len(OPENINGS)), COLORS, SHAPES, ACTIONS):
        yield Event(color, shape, action, 0, 1, 0.0).describe(position)
