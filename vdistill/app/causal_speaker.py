"""A causal student that hears as the maker of a session: block by block with its memory, and nothing is decoded to be
shown again. What it is told of a block is what the block's positions hear in the whole sound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..avatar.session import entries
from ..causal.stream import Stream
from ..core.cond import Cond
from ..core.errors import UserError
from .causal_file import Saved
from .live import decoder_state, restore_decoder
from .speaker import Speaker
from .streaming import stream_of


@dataclass
class CausalSpeaker(Speaker):
    """Speaks for one session. stream: makes the latents; decode: them into frames, with the decoder's own memory."""

    stream: Stream = field(kw_only=True)
    decode: Callable[[Tensor], Tensor] = field(kw_only=True)

    @torch.no_grad()
    def block(self, cond: Cond, start: int, back: int, count: int) -> Tensor:
        self.stream.hear(cond.narrow(back, count).along)
        return self.decode(next(self.stream))[0].float().cpu()

    def state(self) -> dict[str, Tensor]:
        """Besides, what the student and the decoder remember."""
        found = super().state() | {f"stream/{k}": v for k, v in self.stream.state().items()}
        return found | {f"decoder/{k}": v for k, v in decoder_state(self.decode).items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        super().restore(state)
        self.stream.restore(entries("stream/", state))
        restore_decoder(self.decode, entries("decoder/", state))

    def about(self) -> dict[str, str]:
        plan = self.stream.plan
        return {**super().about(), "layout": str(plan.layout), "times": str((plan.times, plan.first, plan.level))}

    def room(self, block: int | None, back: int | None) -> tuple[int, int, int]:
        """As it was trained. One position of the past, so that the first of a block is no beginning of a clip."""
        layout = self.stream.plan.layout
        if block not in (None, layout.block):
            what = f"this student makes {layout.block} positions at a time, found {block}"
            raise UserError(what, "--block", "leave it out")
        return layout.first or layout.block, layout.block, 1


def causal(speaker: Speaker, spec: Saved) -> CausalSpeaker:
    """The same face, made as `spec` says. UserError for a student that makes blocks together, ahead of their sound."""
    if spec.rolling > 1:
        what = f"denoises {spec.rolling} blocks together, before their sound is there"
        raise UserError(what, "causal", "talk with a student that makes one block after the other")
    family, spatial = speaker.family, speaker.family.codec.spatial
    size = speaker.shape[-2] * spatial, speaker.shape[-1] * spatial
    stream = stream_of(family, spec, [""], size, seed=speaker.seed, steps=speaker.steps, net=speaker.net)
    still = speaker.told(torch.zeros(1, 0, 0, 0)).to(family.device)
    stream.cond = replace(still, along={})
    return CausalSpeaker(**vars(speaker), stream=stream, decode=family.codec.stream())
