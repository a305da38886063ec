"""`method.sync` of a config: the term that asks for mouths that go with the sound, judged by the shipped network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..avatar.adapter_tokens import SPEAKS
from ..avatar.mel import Mel
from ..avatar.sync import DecodedSync, mel_of
from ..core.errors import UserError
from ..core.step import Batch, Term
from ..families.stock import StockFamily
from .build_avatar import conditions_of
from .talker_truth import sync_net

WHERE = "method.sync"


def sync_terms(family: object, weight: float | None) -> Sequence[Term]:
    """The term at this weight, none without one. UserError for a model that does not hear, or not as the sync network
    does, and for a codec that lets no gradient through."""
    if not weight:
        return ()
    if not isinstance(family, StockFamily):
        raise UserError("asks mouths to go with the sound, and this model does not hear", WHERE, "leave it out")
    heard, net = conditions_of(family), sync_net()
    if heard.encoder != Mel(net.mels):
        what = f"the sync network hears {net.mels} mel bands, not causal; this model hears {heard.encoder}"
        raise UserError(what, WHERE, f"say adapters: (bands: {net.mels}, causal: false)")
    if not differentiable(family):
        raise UserError(f"the decoder of {family.name} lets no gradient through", WHERE, "leave it out")
    return (
        DecodedSync(
            net.to(family.device),
            family.codec.unclipped,
            lambda batch: mel_of(batch.cond.along["audio"], heard.windows),
            weight,
            on=spoken,
        ),
    )


def spoken(batch: Batch) -> Tensor:
    """[B]: share of the positions whose sound the model is told."""
    return (batch.cond.along["audio.on"].round() == SPEAKS).float().mean(1)


def differentiable(family: StockFamily) -> bool:
    """Whether a gradient of the pixels reaches the latents, tried on the shortest clip."""
    _, high, wide = family.network_of().patch
    spatial = family.codec.spatial
    shape = family.codec.shape(1, high * spatial, wide * spatial)
    with torch.enable_grad():
        latents = torch.zeros(1, *shape, device=family.device, requires_grad=True)
        return bool(family.codec.unclipped(latents).requires_grad)
