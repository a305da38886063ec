"""From the `judge:` section to what a judge looks at, the modules that judge it, and the conditions they are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from ..core.denoiser import Denoiser, Net, Tapped
from ..core.errors import UserError
from ..core.scope import AdapterRole
from ..core.step import Batch
from ..discriminators.agreement import Told, vectors
from ..discriminators.augment import AUGMENTS, in_turn
from ..discriminators.bands import Bands
from ..discriminators.heads import CrossHeads, TokenHeads
from ..discriminators.latent import LatentJudge, MotionJudge, factorised_steps, full_steps
from ..discriminators.look import Look, Taps, Whole
from ..discriminators.perceptual import RandomFeatures
from ..discriminators.pictures import ImageFeatures, Pictures, of_images
from ..discriminators.window import Grids, Window, region_of
from ..families.image_features import image_config, open_image_features
from ..families.sd import UNetNet
from ..families.stock import StockFamily
from ..families.stock_net import StockNet
from .schema_judge import PIXELS, TOKENS, Judge


@dataclass(frozen=True)
class Evidence:
    """What a judge may need beside the networks. first: a batch of the run's data, opened when it is asked for; decode:
    latents to pixels, with a gradient; apart: it takes each latent frame by itself; size: height and width of the
    clips, pixels."""

    first: Callable[[], Batch]
    decode: Callable[[Tensor], Tensor] | None = None
    apart: bool = False
    size: tuple[int, int] = (32, 32)


def evidence_of(family: object, first: Callable[[], Batch], size: tuple[int, int] = (32, 32)) -> Evidence:
    """What a family and the run's data give. size: height and width of its clips, pixels."""
    if not isinstance(family, StockFamily):
        return Evidence(cache(first))
    return Evidence(cache(first), family.codec.unclipped, family.codec.temporal == 1, size)


@dataclass(frozen=True)
class Sight:
    """look, and the judge of what it shows; grids: where the logits lie, where that is known; told: names of the
    conditions it is told."""

    look: Look
    judge: nn.Module
    grids: Grids | None
    told: tuple[str, ...]


def sight(spec: Judge, teacher: Denoiser, critic: Denoiser, evidence: Evidence | None = None, points: int = 1) -> Sight:
    """What a judge sees of samples, or of so many `points` of a step side by side. UserError for what is not there."""
    frozen = spec.features == "teacher"
    who = teacher if frozen else critic
    net = network_of(who)
    if spec.kind == PIXELS:
        return _pictures(spec, net, evidence)
    told = conditions_of(spec, net, evidence)
    look: Look = Whole()
    layers: tuple[int, ...] = ()
    if spec.kind == TOKENS:
        layers = layers_of(net, spec.layers, "method.judge.layers", last=not frozen)
        look = taps_of(who, layers, frozen)
    judges = [_judge_on(spec, net, layers, told, points) for _ in range(spec.bands)]
    judge = judges[0] if len(judges) == 1 else Bands(judges, spec.t_min, spec.t_max)
    return Sight(look, judge, _grids(net, judges[0], layers), tuple(each.name for each in told))


def window(spec: Judge, seen: Sight, evidence: Evidence | None) -> Window | None:
    """The places that count. UserError for a region that the data has not, or features whose places are not known."""
    if spec.where is None:
        return None
    if seen.grids is None:
        raise UserError(
            "features of this network have no even grid of places", "method.judge.where", "say kind: latent"
        )
    name = spec.where.region
    if name is not None and evidence is not None and region_of(evidence.first(), name) is None:
        known = ", ".join(evidence.first().regions) or "none"
        raise UserError(f"no region {name!r}; the data has {known}", "method.judge.where.region")
    return Window(seen.grids, spec.where.last, spec.where.region)


def conditions_of(spec: Judge, net: nn.Module, evidence: Evidence | None) -> tuple[Told, ...]:
    """What the logits depend on beside the clip. UserError for a condition that network or data have not."""
    text = (Told("text", text_width(net)),) if spec.text or spec.condition == "text" else ()
    if spec.condition in (None, "text"):
        return text
    if evidence is None:
        raise UserError("this method does not tell its judge of other conditions", "method.judge.condition")
    cond = evidence.first().cond
    width = vectors(cond, spec.condition).shape[-1]
    along = spec.condition in cond.along
    if along and spec.kind == PIXELS:
        said = f"{spec.condition} runs along the clip, and kind: pixels looks at single frames"
        raise UserError(said, "method.judge.condition", "say kind: latent")
    step = net.patch[0] if spec.kind == TOKENS and isinstance(net, StockNet) else 1
    return (*text, Told(spec.condition, width, step))


def _pictures(spec: Judge, net: nn.Module, evidence: Evidence | None) -> Sight:
    if evidence is None or evidence.decode is None:
        raise UserError("nothing here turns latents into frames", "method.judge.kind", "say kind: latent")
    told = conditions_of(spec, net, evidence)
    features = image_features(spec)
    augment = in_turn([AUGMENTS[name] for name in spec.augment])
    look = Pictures(evidence.decode, features, spec.frames, evidence.apart, augment)
    widths = [f.shape[-1] for f in features(torch.zeros(1, 3, *evidence.size))]
    return Sight(look, _heads(spec)(widths, spec.hidden, told), None, tuple(each.name for each in told))


def image_features(spec: Judge) -> ImageFeatures:
    """Of the folder or file a config names, or of fixed random convolutions."""
    if spec.images != "random":
        return open_image_features(spec.images, spec.layers)
    every = of_images(RandomFeatures(3, coarse=2))
    if not spec.layers:
        return every
    return lambda images: [every(images)[i] for i in spec.layers]


def check_images(spec: Judge) -> None:
    """UserError for image features that would not open."""
    if spec.kind == PIXELS and spec.images != "random":
        image_config(spec.images, spec.layers)


def _judge_on(spec: Judge, net: nn.Module, layers: tuple[int, ...], told: Sequence[Told], points: int) -> nn.Module:
    """One judge: of features after these layers of the network, or of latents as it takes them."""
    if spec.kind == TOKENS:
        return _heads(spec)([points * width_of(net, i) for i in layers], spec.hidden, told)
    assert isinstance(net, StockNet)
    steps = full_steps(spec.hidden) if spec.kind == "latent" else factorised_steps(spec.hidden)
    judge = LatentJudge(points * net.channels, steps, spec.hidden, told, points)
    return MotionJudge(judge) if spec.kind == "motion" else judge


def _heads(spec: Judge) -> Callable[[Sequence[int], int, Sequence[Told]], nn.Module]:
    return CrossHeads if spec.head == "cross" else TokenHeads


def _grids(net: nn.Module, judge: nn.Module, layers: tuple[int, ...]) -> Grids | None:
    if isinstance(judge, LatentJudge | MotionJudge):
        return lambda shape: [judge.grid(shape)]
    if not isinstance(net, StockNet) or isinstance(net, UNetNet):  # blocks of a U-Net see places of several sizes
        return None
    patch = net.patch

    def grids(shape: Sequence[int]) -> Sequence[tuple[int, int, int]]:
        t, h, w = (size // by for size, by in zip(shape[2:], patch, strict=True))
        return [(t, h, w)] * len(layers)

    return grids


def taps_of(who: Denoiser, layers: tuple[int, ...], frozen: bool = False) -> Taps:
    """A network's features."""
    assert isinstance(who, Tapped)
    return Taps(who, layers, frozen)


def network_of(who: Denoiser) -> nn.Module:
    """The raw network that plays a role."""
    net = who.net if isinstance(who, AdapterRole) else who
    assert isinstance(net, Net)
    return net.net


def layers_of(net: nn.Module, asked: tuple[int, ...], key: str, last: bool = True) -> tuple[int, ...]:
    """The blocks to look at, unless others are asked for the middle and the last, or, where those behind would run for
    nothing else, the middle alone. UserError for one that is not there."""
    blocks = len(net.blocks()) if isinstance(net, StockNet) else len(net.hidden)  # type: ignore[arg-type]
    layers = tuple(asked) or (tuple(sorted({blocks // 2, blocks - 1})) if last else ((blocks - 1) // 2,))
    if max(layers) >= blocks:
        raise UserError(f"layers {list(layers)}, the network has 0..{blocks - 1}", key)
    return layers


def width_of(net: nn.Module, layer: int) -> int:
    """Channels of the features after a block."""
    return net.width(layer) if isinstance(net, StockNet) else int(net.out.in_features)  # type: ignore[union-attr,arg-type]


def text_width(net: nn.Module) -> int:
    """Channels of the text tokens. UserError for a network whose text goes in elsewhere."""
    if not isinstance(net, StockNet) or net.text_in is None:
        what = type(net.model).__name__ if isinstance(net, StockNet) else type(net).__name__
        raise UserError(f"{what} does not say where its text goes in", "method.judge.text", "leave it out")
    return int(net.model.get_submodule(net.text_in).in_features)
