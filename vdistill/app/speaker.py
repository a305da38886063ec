"""A model that hears as the maker of a session: blocks of frames out of sound, each going on from the one before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..avatar.conditions import NULL
from ..avatar.session import Heard, Session, entries
from ..core.cond import Cond
from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..core.rng import Rng
from ..core.sampling import Deterministic, Renoise, Sampler
from ..core.solvers import solve
from ..families.few_step import Straight
from ..families.stock import StockFamily
from ..video.extend import Continued, continue_from
from .build_avatar import conditions_of
from .build_scales import tokens_of, told_student
from .generate import Counted
from .live import fingerprint
from .models import clip_shape
from .talk_clips import under

BACK = 2  # latent positions of the past that a block is drawn towards: one alone has no motion in it
SHOWN = 1  # those that a network is shown which was trained to go on from them: more of them carry a drift of looks on


@dataclass
class Speaker:
    """Makes blocks of one face. ref: [1, C, h, w], the face as one latent frame; shape: [C, T, H, W] of a clip's
    latents; net: the network under its scales, which asks `counted`; begins: positions of the past it was trained to
    go on from, 0 for none, where it is drawn towards them (`Continued`); level: noise put on them, which a network that
    learned so forgives, and errors of the past with it; steps: of a teacher; last: the newest frames.
    """

    family: StockFamily
    net: Denoiser
    counted: Counted
    ref: Tensor
    shape: tuple[int, ...]
    text: Cond
    begins: int = 0
    level: float = 0.0
    steps: int = 25
    seed: int = 0
    last: Tensor | None = field(default=None, repr=False)

    def __call__(self, heard: Heard) -> Tensor:
        return self.block(self.told(heard.audio), heard.start, heard.back, heard.count)

    @torch.no_grad()
    def block(self, cond: Cond, start: int, back: int, count: int) -> Tensor:
        """Frames [3, n, H, W] of `count` positions from `start` on, after `back` of the past; cond: of all of them."""
        family, temporal = self.family, self.family.codec.temporal
        channels, _, *sides = self.shape
        rng = Rng(self.seed, turn=f"talk/{start}")
        noise = rng.normal("first", (1, channels, back + count, *sides)).to(family.device)
        cond, given = cond.to(family.device), 0
        if back:
            assert self.last is not None
            given = 1 + temporal * (back - 1)
            known = family.codec.encode(self.last[None, :, -given:].to(family.device))
            known = known.to(noise)
            if self.level:
                eps = rng.normal("begin/eps", known.shape).to(known)
                known = self.net.schedule.noise(known, eps, torch.full((1,), self.level, dtype=torch.float64))
            cond = continue_from(cond, known, noise)
        pixels = family.codec.decode(self.sampled(noise, cond, rng))[0].float().cpu()
        self.last = pixels[:, -(1 + temporal * (BACK - 1)) :]
        return pixels[:, given:]

    def told(self, audio: Tensor) -> Cond:
        """audio [1, n, S, F] with the face and the text, as the network reads them."""
        along = {"audio": audio, "audio.on": torch.ones(audio.shape[:2])}
        fields = {**self.text.fields, "ref": self.ref, "ref.on": torch.ones(1)}
        return replace(self.text, fields=fields, along=along, null={**self.text.null, **NULL})

    def sampled(self, noise: Tensor, cond: Cond, rng: Rng) -> Tensor:
        """Clean latents, at a student's own times or in a teacher's steps."""
        times = self.family.times
        if times is None:
            return solve(self.net, noise, self.net.schedule.grid(self.steps), cond, "ddim")
        sampler: Sampler = Deterministic() if isinstance(times, Straight) else Renoise()
        return sampler(self.net, noise, cond, rng, times)

    def room(self, block: int | None, back: int | None) -> tuple[int, int, int]:
        """Positions of (the first block, each later one, the past it is shown), as many as go into a clip where none
        are asked for. UserError where a clip has no room for them."""
        length = self.shape[1]
        back = min(SHOWN if self.begins else BACK, length - 1) if back is None else back
        block = length - back if block is None else block
        if not 1 <= back < length or not 1 <= block <= length - back or back > BACK:
            what = f"{block} positions after {back} of the past, in clips of {length}"
            raise UserError(what, "session", f"at least 1 and 1 to {BACK}, together at most {length}")
        return length, block, back

    def about(self) -> dict[str, str]:
        """Which model makes what."""
        _, _, high, wide = self.shape
        spatial = self.family.codec.spatial
        return {"pixels": f"{high * spatial}x{wide * spatial}", "steps": str(self.family.times or self.steps),
                "level": f"{self.level:g}", "dtype": str(self.family.network_of().dtype),
                "weights": fingerprint(self.family)}  # fmt: skip

    def state(self) -> dict[str, Tensor]:
        """The face, the text, the seed and the newest frames."""
        found = {"ref": self.ref, "seed": torch.tensor([self.seed])}
        found |= {f"text/{name}": value for name, value in self.text.fields.items()}
        return found if self.last is None else {**found, "last": self.last}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.ref, self.seed, self.last = state["ref"], int(state["seed"]), state.get("last")
        self.text = replace(self.text, fields=entries("text/", state))

    @property
    def passes(self) -> int:
        """Of the network, so far."""
        return self.counted.clips


def speaker_of(
    family: StockFamily,
    face: Tensor,
    frames: int,
    text: str,
    *,
    scales: Mapping[str, float],
    begins: int = 0,
    level: float = 0.0,
    steps: int = 25,
    seed: int = 0,
) -> Speaker:
    """face: [3, H, W] in [-1, 1]; frames: of the clips the model was made for; scales: of a teacher's chain in order,
    or those a student that is told scales gets. UserError for a model that does not hear or takes no such scale."""
    conditions_of(family)
    counted = Counted(family.net)
    net: Denoiser = Continued(counted, clean=bool(begins))
    if tokens_of(family) is not None:
        net = told_student(family, net, scales)
    elif family.times is None:
        net = under(net, scales)
    elif scales and any(scale != 1 for scale in scales.values()):
        what = "this few-step student has its guidance in its weights"
        raise UserError(what, "scales", "leave --audio-scale and --ref-scale out")
    ref = family.codec.encode(face[None, :, None].to(family.device))[:, :, 0].cpu()
    shape = clip_shape(family, frames, *face.shape[-2:])
    return Speaker(family, net, counted, ref, shape, family.text([text]), begins, level, steps, seed)


def session_of(speaker: Speaker, block: int | None = None, back: int | None = None) -> Session:
    """A session that makes `block` positions at a time, after `back` of the past. UserError where a clip of the model
    has no room for them."""
    heard = conditions_of(speaker.family)
    first, block, back = speaker.room(block, back)
    return Session(speaker, heard.encoder, heard.windows, first=first, block=block, back=back)
