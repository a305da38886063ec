"""A long sound at once: every step looks at it in overlapping windows, which are elsewhere at the next step and are
fused into one sequence (MagicInfinite, Yi et al. 2025; Sonic, Ji et al. 2024). No window goes on from another, so that
nothing drifts, and each latent position hears its own sound in every window that sees it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..avatar.rates import FPS
from ..avatar.session import Meter
from ..core.cond import Cond
from ..core.errors import UserError
from ..core.rng import Rng
from .build_avatar import conditions_of
from .causal_speaker import CausalSpeaker
from .generate import Plan
from .long import windowed
from .speaker import Speaker
from .streaming import held_back

MOST = 300.0  # seconds, whose latents and estimates lie in memory together


def heard_whole(speaker: Speaker, sound: Tensor) -> tuple[Cond, int]:
    """(conditions of all that is heard, its frames), as a session would hear it. sound: [samples]."""
    heard = conditions_of(speaker.family)
    stream = heard.encoder.stream()
    features = torch.cat([stream.push(sound), stream.flush()])
    return speaker.told(heard.windows(features[None], positions_of(speaker, len(features)))), len(features)


def positions_of(speaker: Speaker, frames: int) -> int:
    """Latent positions that hold so many frames, a clip's at least."""
    return max(1 + math.ceil((frames - 1) / speaker.family.codec.temporal), speaker.shape[1])


def checked(speaker: Speaker, frames: int) -> None:
    """UserError for a clip that is too long to be held, or a student that makes block after block."""
    if isinstance(speaker, CausalSpeaker):
        hint = "leave it out: it speaks for as long as the sound lasts"
        raise UserError("is for models that see their whole clip", "--long windows", hint)
    if frames > MOST * FPS:
        what = f"{frames / FPS:.0f} s of sound are not held at once, at most {MOST:.0f} s are"
        raise UserError(what, "--long windows", "use --long blocks, or cut the sound")


@torch.no_grad()
def in_windows(speaker: Speaker, cond: Cond, frames: int, meter: Meter) -> Iterator[Tensor]:
    """Frames [3, n, H, W], `frames` in all, out of conditions of all of them: of a clip's length what a session makes
    of it, bit for bit. meter: is told what all of it took."""
    family, (channels, window, *sides), begun = speaker.family, speaker.shape, time.perf_counter()
    count, rng = positions_of(speaker, frames), Rng(speaker.seed, turn="talk/0")
    noise = rng.normal("first", (1, channels, count, *sides)).to(family.device)
    net = windowed(family, speaker.net, Plan(speaker.steps), window, family.times, whole=1.0)
    latents = replace(speaker, net=net).sampled(noise, cond.narrow(0, count).to(family.device), rng)
    decode, left = family.codec.stream(), frames
    for part in latents.split(window, 2):
        pixels = decode(part)[0].float().cpu()[:, :left]
        left -= pixels.shape[1]
        meter.spent.append(time.perf_counter() - begun)
        meter.frames += pixels.shape[1]
        yield pixels
        begun = time.perf_counter()
    rest = held_back(decode)
    if rest is not None and left:
        meter.frames += min(left, rest.shape[2])
        yield rest[0, :, :left].float()
