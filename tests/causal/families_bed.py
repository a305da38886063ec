"""Every video family with tiny random weights in float64, called under a mask over a whole clip, or block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from contract import case
from torch import Tensor

from vdistill.causal.attend import Masked, View
from vdistill.causal.cache import Cache
from vdistill.causal.layout import Layout
from vdistill.causal.masks import block_causal, teacher_forcing
from vdistill.core.attention import Attend
from vdistill.core.cond import Cond
from vdistill.families.stock_net import StockNet

VARIANTS = (
    "wan", "wan22-ti2v", "wan22-a14b", "cogvideox-2b", "cogvideox-5b", "cogvideox15-5b", "hunyuan", "hunyuan15", "ltx",
)  # fmt: skip
JOINT = VARIANTS[3:8]
"""Text and clip in one attention."""
ROTARY = tuple(v for v in VARIANTS if v != "cogvideox-2b")
POSITIONS = 9
CAPTIONS = ("a red cat jumps over a fence", 'a "sun"')
EXACT = 1e-12  # largest difference of two ways to compute the same in float64
APART = 1e-2  # least difference of two rules that are not the same


@dataclass(frozen=True, eq=False)
class Bed:
    """unit: latent frames of one position. x, clean: [2, C, T, H, W], one caption each; t: [2, T], equal in a block of
    two, below the level at which the first of two experts would answer."""

    net: StockNet
    unit: int
    x: Tensor
    clean: Tensor
    t: Tensor
    cond: Cond

    @property
    def positions(self) -> int:
        return self.x.shape[2] // self.unit

    def part(self, x: Tensor, start: int, count: int) -> Tensor:
        """Some positions of a clip [B, C, T, ...] or of times [B, T]."""
        dim = 1 if x.ndim == 2 else 2
        return x.narrow(dim, start * self.unit, count * self.unit)

    @torch.no_grad()
    def whole(
        self,
        table: Tensor,
        numbers: Sequence[int] | None = None,
        t: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Tensor:
        """One pass under a mask."""
        return self.net(self.x, self.t if t is None else t, self.cond, Masked(table, numbers, layout))

    @cache  # noqa: B019 (a bed lives as long as the tests)
    def causal(self, layout: Layout) -> Tensor:
        """One pass under the block-causal mask."""
        return self.whole(block_causal(layout, self.positions), layout=layout)

    @cache  # noqa: B019 (a bed lives as long as the tests)
    @torch.no_grad()
    def beside_clean(self, layout: Layout) -> Tensor:
        """One pass over [clean | noisy]: what it says of the noisy."""
        table, seen = teacher_forcing(layout, self.positions), [*range(self.positions)] * 2
        x, t = torch.cat([self.clean, self.x], 2), torch.cat([0 * self.t, self.t], 1)
        return self.net(x, t, self.cond, Masked(table, seen, layout))[:, :, self.x.shape[2] :]

    @cache  # noqa: B019 (a bed lives as long as the tests)
    @torch.no_grad()
    def blocks(self, layout: Layout, clean: bool = False, start: int = 0, t: Tensor | None = None) -> Tensor:
        """Block by block with a cache, of what was made or (clean) of the clean block at time 0."""
        cache, out = Cache(layout), []
        for first, count in layout.spans(self.positions):
            view = View(cache, range(first + start, first + count + start))
            view.keep = not clean
            out.append(self.ask(first, count, self.t if t is None else t, view))
            if clean:
                view.keep = True
                self.net(self.part(self.clean, first, count), self.t[:, :1] * 0, self.cond, view)
            view.commit()
        return torch.cat(out, 2)

    def ask(self, first: int, count: int, t: Tensor, attend: Attend) -> Tensor:
        """One block; a time that all positions share is told once."""
        times = self.part(t, first, count)
        shared = bool((times == times[:, :1]).all())
        return self.net(self.part(self.x, first, count), times[:, :1] if shared else times, self.cond, attend)


def trimmed(cond: Cond) -> Cond:
    """With one row of padding behind the longest text."""
    fields = dict(cond.fields)
    for name, mask in (("text", "text.mask"), ("text.glyph", "text.glyph_mask")):
        if mask in fields:
            rows = int(fields[mask].sum(1).max()) + 1
            fields[name], fields[mask] = fields[name][:, :rows], fields[mask][:, :rows]
    return Cond(fields)


@cache
def bed(variant: str, positions: int = POSITIONS) -> Bed:
    c = case(variant)
    net = c.family.network_of().double()
    if variant == "hunyuan15":
        net.image_tokens = 3  # of no image, all masked: 729 of them are most of the work
    cond = trimmed(c.family.text(CAPTIONS).to(dtype=torch.float64))
    unit, source = net.patch[0], torch.Generator().manual_seed(0)
    shape = (2, c.shape[0], positions * unit, 2 * net.patch[1], 2 * net.patch[2])
    x, clean = (torch.randn(shape, generator=source, dtype=torch.float64) for _ in range(2))
    t = 0.8 * torch.rand(2, positions // 2 + 1, generator=source, dtype=torch.float64)
    t = t.repeat_interleave(2, 1)[:, -positions:].repeat_interleave(unit, 1)
    return Bed(net, unit, x, clean, t, cond)


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())
