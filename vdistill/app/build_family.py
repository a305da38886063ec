"""From the family section of a config to the opened teacher, on its device and within its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..core.cond import Cond
from ..core.schedule import Schedule
from ..core.scope import recomputed
from ..data.bank import BankData
from ..data.loader import open_data
from ..data.manifest import scan
from ..data.prompts import read_prompts
from ..families import memory
from ..families.analytic_family import AnalyticFamily
from ..families.ltx import LtxFamily
from ..families.stock import StockFamily
from ..families.stock_net import StockNet
from ..families.tiny import TinyFamily, TinySize
from ..worlds.shapes import Shapes
from .build_avatar import CAPTIONS, with_adapters
from .models import open_model, random_model
from .schema import Config, Data, DataBank, DataLatents, DataMedia, DataMix, DataPrompts, DataShapes
from .schema_avatar import DataTalker, DataTalking
from .schema_family import FamilyAnalytic, FamilyStock, FamilyTiny
from .talking_source import talking_captions
from .texts import remember_texts

AnyFamily = StockFamily | AnalyticFamily
VOCABULARY = 4096  # clips of the world whose captions a new tokenizer is learned from


def make_family(config: Config, device: torch.device | str = "cpu", *, texts: bool = True) -> AnyFamily:
    """The teacher's family, opened or new. texts: take text embeddings that were prepared with the config's data."""
    f = config.family
    if isinstance(f, FamilyAnalytic):
        return AnalyticFamily(f.target, Schedule(f.schedule), f.hidden, f.layers, config.seed)
    family = published(f, config.seed) if isinstance(f, FamilyStock) else small(f, config)
    with_adapters(family, f.adapters)
    tuned(config, family.network_of())
    if texts:
        remember_texts(config, family)
    return family.to(device)


def tuned(config: Config, network: StockNet) -> None:
    """The kernel of a network's attention, and whether its activations are computed twice."""
    if backend := getattr(config.family, "attention", None):
        memory.set_backend(network.parts, backend)
    if config.train.gradient_checkpointing:
        memory.checkpoint_gradients(network.parts, recomputed)


def published(f: FamilyStock, seed: int) -> StockFamily:
    """A published teacher, or a tiny one of the same classes."""
    dtype = getattr(torch, f.dtype)
    if f.random_tiny:
        family = random_model(f.random_tiny, f.name, seed, dtype, f.negative)
    else:
        family = open_model(f.path or "", f.name, dtype, f.negative)
    if f.shift:
        family.shifted(f.shift)
    elif family.pipe.scheduler.config.get("use_dynamic_shifting"):
        family.shift_for(family.codec.shape(*f.clip))
    if isinstance(family, LtxFamily) and f.frame_rate:
        family.frame_rate = f.frame_rate
    if f.tiling:
        memory.tile(family.pipe.vae)
    family.dynamic_guidance, family.cut_long_text = f.dynamic_guidance, f.long_text == "cut"
    return family


def small(f: FamilyTiny, config: Config) -> StockFamily:
    """A model of small dimensions, from its folder or new."""
    return open_model(f.path) if f.path else TinyFamily.build(tiny_size(f), vocabulary(config), config.seed)


def frugal(config: Config, family: AnyFamily) -> None:
    """Shrink what the frozen network of a published teacher takes."""
    f = config.family
    if not isinstance(f, FamilyStock) or not isinstance(family, StockFamily):
        return
    parts = family.network_of().parts
    if f.fp8:
        memory.store_in_8_bits(parts, getattr(torch, f.dtype))
    if f.offload != "none":
        memory.offload(parts, family.device, f.offload)


def tiny_size(f: FamilyTiny) -> TinySize:
    """The dimensions a config gives a new tiny model."""
    return TinySize(
        f.dim, f.heads, f.layers, f.ffn, f.text_dim, f.text_layers, f.text_length, f.patch_frames, f.patch_size,
        codec=f.codec, mean=f.mean, std=f.std, shift=f.shift, predicts=f.predicts,
        patch=(1, 1, 1) if f.codec == "pixel" else (1, 2, 2),
    )  # fmt: skip


def vocabulary(config: Config) -> Sequence[str]:
    """Captions a new tokenizer is learned from: the world's, or the data's own."""
    return captions_of(config.data)


def captions_of(d: Data) -> Sequence[str]:
    """What a data section says of its clips; of the world a part."""
    if isinstance(d, DataMix):
        return [caption for part in d.parts for caption in captions_of(part)]
    if isinstance(d, DataBank):
        return BankData(d.path).captions()
    if isinstance(d, DataMedia):
        return [item.caption for item in scan(Path(d.path), images=d.images, caption=d.caption).items]
    if isinstance(d, DataPrompts) and Path(d.path).is_file():
        return read_prompts(Path(d.path))
    if isinstance(d, DataLatents | DataPrompts):
        return open_data(d.path, lambda captions: Cond()).captions()
    if isinstance(d, DataTalker):
        return CAPTIONS
    if isinstance(d, DataTalking):
        return talking_captions(d)
    world = replace(world_of(d), split="train") if isinstance(d, DataShapes) else Shapes()
    return [world.caption(i) for i in range(VOCABULARY)]


def world_of(d: DataShapes) -> Shapes:
    """The world a config's data section names."""
    return Shapes(d.frames, d.size, tuple(d.counts), d.open, turning=d.turning, late=d.late)
