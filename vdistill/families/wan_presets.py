"""What public few-step and causal Wan checkpoints do not say of themselves: times, blocks, window, positions.

Values are those of the authors' inference configurations. Times are timesteps in [0, 1000]; `warped` ones were listed
before the shift s and are sampled at s u / (1 + (s - 1) u).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # the command line reads the names without paying for torch
    from .few_step import FewStepScheduler

Rope = Literal["absolute", "relative", "anchored"]
Commit = Literal["clean", "recompute"]


@dataclass(frozen=True)
class Causal:
    """How a student that makes a clip block by block attends to what it made. All counts are latent frames.

    block: made at once; window: keys seen, with the block itself and the sink, None for all; sink: first frames that
    never leave; rope: positions of cached keys (absolute; relative to the window; anchored: the sink sits right before
    the window); commit: the cache is written by a pass at noise `commit_sigma`, or recomputed from the last clean
    frames for every block; rolling: blocks denoised jointly at rising noise; first: timesteps of the first block, if
    others.
    """

    block: int
    window: int | None = None
    sink: int = 0
    rope: Rope = "absolute"
    commit: Commit = "clean"
    commit_sigma: float = 0.0
    rolling: int = 1
    first: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Preset:
    """steps: timesteps as the authors list them, without the last 0; shift: of the grid; causal: None for students that
    see the whole clip; stochastic: whether a step renoises its prediction or moves on deterministically."""

    steps: tuple[float, ...]
    shift: float
    warped: bool = True
    causal: Causal | None = None
    stochastic: bool = True

    def times(self, steps: tuple[float, ...] | None = None) -> list[float]:
        """Noise levels in (0, 1], descending."""
        k = self.shift if self.warped else 1.0
        return [k * u / (1 + (k - 1) * u) for u in (step / 1000 for step in steps or self.steps)]

    def scheduler(self) -> FewStepScheduler:
        """What a stock pipeline samples with; the network says flow."""
        from .few_step import FewStepScheduler

        return FewStepScheduler(self.times(), "flow_prediction", self.stochastic, self.shift)

    def describe(self, name: str) -> dict[str, Any] | None:
        """causal.json: everything a causal sampler has to know, times in (0, 1]; None for bidirectional students."""
        if self.causal is None:
            return None
        first = self.causal.first and self.times(self.causal.first)
        return {"preset": name, "times": self.times(), "shift": self.shift, **asdict(self.causal), "first": first}


FOUR = (1000.0, 750.0, 500.0, 250.0)
PRESETS = {
    "causvid": Preset((1000, 757, 522), 8.0, False, Causal(3)),
    "self_forcing": Preset(FOUR, 5.0, True, Causal(3)),
    "causal_forcing": Preset(FOUR, 5.0, True, Causal(3)),
    "causal_forcing_frame": Preset(FOUR, 5.0, True, Causal(1)),
    "causal_forcing_2step": Preset((1000, 500), 5.0, True, Causal(1, first=FOUR)),
    "longlive": Preset(FOUR, 5.0, True, Causal(3, window=12, sink=3)),
    "longlive_infinity": Preset(FOUR, 5.0, True, Causal(3, window=12, sink=3, rope="relative")),
    "rolling_forcing": Preset(
        (1000, 800, 600, 400, 200), 5.0, True, Causal(3, window=21, sink=3, rope="anchored", rolling=5)
    ),
    "krea14b": Preset((1000, 937, 833, 625), 5.0, False, Causal(3, window=6, rope="relative", commit="recompute")),
    "fastwan": Preset((1000, 757, 522), 8.0, False),
    "lightx2v": Preset(FOUR, 5.0, True, stochastic=False),
}
"""Public checkpoints by name."""
