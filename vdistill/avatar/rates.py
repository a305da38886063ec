"""The clock of talking clips: 25 frames and 16,000 samples a second, so 640 samples a frame, exactly."""

from __future__ import annotations

from ..core.errors import UserError

FPS = 25
RATE = 16_000  # Hz, one channel
SAMPLES = RATE // FPS  # a frame


def whole_frames(samples: int) -> int:
    """How many whole frames so many samples fill. UserError when not one."""
    if samples < SAMPLES:
        raise UserError(f"{samples} samples of sound, need {SAMPLES} for one frame of 1/{FPS} s", "sound")
    return samples // SAMPLES
