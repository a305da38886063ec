"""A Term that asks for mouths that go with the sound (Wav2Lip's expert loss, with a small network of our own).

It looks at pixels, so a student of latents is **decoded at every step**: that costs a pass of the decoder forwards and
backwards, and its memory. A pixel codec or a tiny decoder makes it cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..core.errors import UserError
from ..core.rng import Rng
from ..core.step import Batch, Loss
from .mel import STEPS
from .sync_net import MiniSyncNet, mouth_crops
from .windows import Windows

Of = Callable[[Batch], Tensor]


class _Both(nn.Module):
    """The two towers at once, with `weights` that no gradient reaches."""

    def __init__(self, net: MiniSyncNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, crops: Tensor, mel: Tensor) -> Tensor:
        seen, heard = self.net(crops, mel)
        return (seen * heard).sum(-1)


def agreement(net: MiniSyncNet, crops: Tensor, mel: Tensor) -> Tensor:
    """Cosine of what is seen and heard in every window, [B, T - 4]; differentiable in the crops, never in the net."""
    both = _Both(net)
    fixed = {name: value.detach() for name, value in [*both.named_parameters(), *both.named_buffers()]}
    return functional_call(both, fixed, (crops, mel))  # type: ignore[no-any-return]


def mel_of(audio: Tensor, windows: Windows) -> Tensor:
    """Mel steps of the clip, [B, 4 T, bands], out of what its latent positions hear, `along["audio"]` [B, T', S, F]."""
    last = windows.size - 1 - windows.ahead  # of a position's own frames
    first = audio[:, :1, last]
    rest = audio[:, 1:, last - windows.stride + 1 : last + 1].flatten(1, 2)
    return torch.cat([first, rest], 1).unflatten(2, (STEPS, -1)).flatten(1, 2)


@dataclass(frozen=True)
class DecodedSync:
    """A Term without a module of its own: weight max(0, enough - mean cosine) of the decoded sample's mouth and sound.

    enough: true clips have .75 with known voices and .55 with unknown ones; asked for more, mouths begin to please the
    network instead of saying the words (docs/log.md).

    decode: sample [B, C, T', h, w] -> pixels [B, 3, T, H, W] in [-1, 1] with gradients, as a codec's `unclipped`; mel:
    of a batch, log-mel [B, 4 T, bands]; box: of a batch, where the mouth is, [B, 4] or [B, T, 4] shares of the picture
    (default: one centred face); on: of a batch, [B] in [0, 1], which samples have sound at all.
    """

    net: MiniSyncNet
    decode: Callable[[Tensor], Tensor]
    mel: Of
    weight: float = 0.1
    enough: float = 0.6
    box: Of | None = None
    on: Of | None = None
    name: str = "sync"

    @property
    def module(self) -> nn.Module | None:
        return None

    def student(self, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        pixels = self.decode(x)
        if x.requires_grad and not pixels.requires_grad:
            raise UserError("the decoder lets no gradient through", "sync term", "give it codec.unclipped")
        crops = mouth_crops(pixels.float(), self.box(batch) if self.box else None)
        with torch.autocast(x.device.type, enabled=False):
            cosine = agreement(self.net, crops, self.mel(batch).float()).mean(1)
        heard = self.on(batch).to(cosine) if self.on else torch.ones_like(cosine)
        loss = self.weight * batch.mean((self.enough - cosine).clamp(min=0) * heard)
        return Loss(loss, {"sync": cosine.mean().detach()})

    def watch(self, x: Tensor, batch: Batch, rng: Rng) -> Loss:
        """Nothing to learn."""
        return Loss(x.new_zeros(()))
