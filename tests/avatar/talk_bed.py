"""A small stock network with adapters, and conditions for it, that several tests share."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from vdistill.app.build_scales import with_tokens
from vdistill.app.schema_scales import ScalesSpec
from vdistill.avatar.adapters import NAME, Adapters, size_for
from vdistill.avatar.conditions import NULL
from vdistill.core.cond import Cond
from vdistill.families.stock import StockFamily
from vdistill.families.tiny import TinyFamily, TinySize

CAPTIONS = ("a person speaks", "a calm person speaks")
CHANNELS, FRAMES, SIDE, SLOTS, FEATURES = 192, 4, 2, 8, 12
SIZE = TinySize(dim=16, heads=2, layers=2, ffn=32, text_dim=16, temporal=4, spatial=4, std=0.5)


def family(seed: int = 0) -> TinyFamily:
    """A stock Wan pipeline of latents [192, T, 2, 2], without adapters."""
    return TinyFamily.build(SIZE, CAPTIONS, seed)


def adapters(f: TinyFamily, seed: int | None = None, **said: object) -> Adapters:
    """Adapters beside the network of `f`: newborn, or with random weights everywhere."""
    said = {"features": FEATURES, "width": 16, **said}
    with torch.random.fork_rng():
        torch.manual_seed(seed or 0)
        made = Adapters(size_for(f.network_of(), CHANNELS, **said))
        if seed is not None:
            for p in made.parameters():
                nn.init.normal_(p, std=0.5)
    f.network_of().beside[NAME] = made
    return made


def scales_spec(**said: object) -> ScalesSpec:
    """Scales of reference and sound as a config says them."""
    usual = {"ref": {"usual": 1.5}, "audio": {"usual": 2.0}}
    return ScalesSpec.model_validate({"conditions": usual, "width": 64, **said})


def taught(**said: object) -> StockFamily:
    """A talking family told such scales."""
    f = family()
    adapters(f, seed=1)
    return with_tokens(f, scales_spec(**said))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def told(f: TinyFamily, count: int = 2, frames: int = FRAMES, seed: int = 0) -> Cond:
    """Text, sound of one speaker, and a reference."""
    text = f.text([CAPTIONS[i % 2] for i in range(count)])
    along = {"audio": draw(count, frames, SLOTS, FEATURES, seed=seed), "audio.on": torch.ones(count, frames)}
    fields = {"ref": draw(count, CHANNELS, SIDE, SIDE, seed=seed + 1), "ref.on": torch.ones(count)}
    return replace(text, fields={**text.fields, **fields}, along=along, null={**text.null, **NULL})


def heard(cond: Cond, **along: Tensor) -> Cond:
    """The same with other values along the clip; `on` and `speakers` for "audio.on" and "speakers"."""
    names = {"on": "audio.on"}
    return replace(cond, along={**cond.along, **{names.get(k, k): v for k, v in along.items()}})
