"""What ways of talking are held to: clips of people and voices nobody has seen, and the teacher's guided estimate."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.denoiser import Denoiser
from ..core.plan import Plan
from ..core.rng import Rng
from ..core.sampling import Deterministic, Renoise, Sampler
from ..core.schedule import spread
from ..core.solvers import solve
from ..eval.talking import Truth, talking_scores
from ..families.few_step import Straight
from ..families.stock import StockFamily
from ..worlds.talker.clips import Clip
from ..worlds.talker.talker import Talker
from .build_scales import tokens_of, told_student
from .generate import Counted, Sampled
from .talk_clips import told, under
from .talker_source import caption
from .talker_truth import truth_of

SPLITS = ("open", "voice")
MOVES = 0.05  # standard deviation of a mouth's opening below which a short clip says nothing of sync
TIMES = (0.95, 0.8, 0.6, 0.4, 0.2)
IN_RANGE = ((0.5, 0.5), (1.0, 0.5), (0.5, 1.0), (1.0, 1.0))  # shares of the way from 1 to the largest scale learned
HELD_OUT = ((1.25, 0.5), (0.5, 1.25), (1.25, 1.25))


@dataclass(frozen=True)
class Way:
    """One way to make clips. net: guided or told its scales, and asks `counted`; times: of a few-step student, None for
    `steps` of a solver."""

    family: StockFamily
    net: Denoiser
    counted: Counted
    steps: int = 25
    times: Sequence[float] | None = None


def guided_way(family: StockFamily, scales: Mapping[str, float], steps: int) -> Way:
    """A chain of scales in passes of its own; a student told nothing is guided as a teacher is."""
    counted = Counted(family.net)
    return Way(family, under(counted, scales), counted, steps)


def told_way(family: StockFamily, scales: Mapping[str, float], steps: int = 25) -> Way:
    """One pass a step, told the scales if the student has a place for them."""
    counted = Counted(family.net)
    return Way(family, said(family, counted, scales), counted, steps, family.times)


def said(family: StockFamily, net: Denoiser, scales: Mapping[str, float]) -> Denoiser:
    """A network told scales, also beyond what it learned; as it is where it takes none."""
    if tokens_of(family) is None:
        return net
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return told_student(family, net, scales)


@dataclass(frozen=True)
class Paper:
    """Clips that no training saw, what is said of them, and the truth about them."""

    clips: list[Clip]
    captions: list[str]
    truth: Truth

    def part(self, places: slice) -> Paper:
        """Some of them."""
        clips = self.clips[places]
        return Paper(clips, self.captions[places], truth_of(clips))


def paper(count: int, frames: int, size: int) -> Paper:
    """`count` clips, of new people and of held-out voices in turn, whose mouths move."""
    found: list[tuple[Clip, str]] = []
    worlds, index = [Talker(split, size, frames) for split in SPLITS], 0
    while len(found) < count:
        world = worlds[len(found) % len(worlds)]
        clip, index = world.clip(index), index + 1
        if float(clip.mouth[:, 0].std()) >= MOVES:
            found.append((clip, caption(world.who(index - 1)[1].liveliness)))
    clips = [clip for clip, _ in found]
    return Paper(clips, [text for _, text in found], truth_of(clips))


@torch.no_grad()
def rendered(way: Way, given: Paper, shape: Sequence[int], seed: int = 0, batch: int = 16) -> Sampled:
    """The clips of a paper, clip i from noise of seed + i. shape: [C, T, H, W] of their latents."""
    family, parts = way.family, []
    sampler: Sampler = Deterministic() if isinstance(way.times, Straight) else Renoise()
    before, begun = way.counted.clips, time.perf_counter()
    for i in range(0, len(given.clips), batch):
        clips = given.clips[i : i + batch]
        cond = told(family, clips, given.captions[i : i + batch])
        noise = torch.stack([Rng(seed + i + j).normal("first", shape) for j in range(len(clips))]).to(family.device)
        if way.times is None:
            made = solve(way.net, noise, way.net.schedule.grid(way.steps), cond, "ddim")
        else:
            made = sampler(way.net, noise, cond, Rng(seed + i, turn="talk/steps"), way.times)
        parts.append(family.codec.decode(made).float().cpu())
    seconds = (time.perf_counter() - begun) / len(given.clips)
    return Sampled(torch.cat(parts), (way.counted.clips - before) // len(given.clips), seconds)


def scores(made: Sampled, given: Paper) -> dict[str, float]:
    """passes and seconds_per_clip, and what `talking_scores` measures."""
    return {"passes": made.passes, "seconds_per_clip": made.seconds, **talking_scores(made.pixels, given.truth)}


def scale_points(most: Mapping[str, float], shares: Sequence[Sequence[float]]) -> list[dict[str, float]]:
    """Scales at shares of the way from 1 (none) to the largest learned, in the order of the names."""
    return [{name: 1 + a * (most[name] - 1) for name, a in zip(most, row, strict=True)} for row in shares]


@dataclass(frozen=True)
class TargetError:
    """How far one pass told the scales is from the teacher guided by them, u from û, both velocities (x_t - x0) / t.

    relative: |u - û| / |û|. ignorant: the same of the teacher's conditional pass, so of a student that ignores its
    scales. of_guidance: |u - û| / |û - u_cond|, the error over what guidance does: 1 for that student. Each is a mean
    over points of scales; norms are over all clips, noised to the five TIMES."""

    relative: float
    ignorant: float
    of_guidance: float


@torch.no_grad()
def target_error(
    ask: Callable[[Mapping[str, float]], Denoiser],
    teacher: StockFamily,
    plan: Plan,
    given: Paper,
    points: Sequence[Mapping[str, float]],
) -> TargetError:
    """Over `points` of scales. ask: the student told such a point."""
    net, cond = teacher.net, told(teacher, given.clips, given.captions)
    x = teacher.codec.encode(torch.stack([clip.frames for clip in given.clips]).to(teacher.device))
    wrong, push, whole = (torch.zeros(len(points)) for _ in range(3))
    for i, now in enumerate(TIMES):
        t = torch.full((len(x),), now, dtype=torch.float64, device=x.device)
        xt = net.schedule.noise(x, Rng(i).normal("target", x.shape, like=x), t)
        plain = net.x0(xt, t, cond)
        for k, point in enumerate(points):
            scales = {name: torch.full((len(x),), s, device=x.device, dtype=x.dtype) for name, s in point.items()}
            goal = plan.x0(net, xt, t, cond, scales, max_batch=32)
            made = ask(point).x0(xt, t, cond)
            for total, far in ((wrong, made - goal), (push, goal - plain), (whole, xt - goal)):
                total[k] += float((far / spread(t, x)).square().sum())

    def ratio(over: Tensor, under: Tensor) -> float:
        return float((over / under).sqrt().mean())

    return TargetError(ratio(wrong, whole), ratio(push, whole), ratio(wrong, push))


def responses(
    family: StockFamily,
    given: Paper,
    shape: Sequence[int],
    usual: Mapping[str, float],
    name: str,
    values: Sequence[float],
) -> list[dict[str, float]]:
    """Scores of a student at values of one scale, the others as usual."""
    rows = []
    for value in values:
        made = rendered(told_way(family, {**usual, name: value}), given, shape)
        rows.append({"scale": value, **talking_scores(made.pixels, given.truth)})
    return rows
