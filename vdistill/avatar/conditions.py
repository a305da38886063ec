"""What a talking clip is conditioned on, as a Cond: the sound each latent position hears, the reference image, text.

Dropping "audio" or "ref" sets its values to 0 and its "on" to 0; networks then put their learned null token there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from ..core.cond import Cond
from ..core.errors import UserError
from .adapter_tokens import LISTENS, SPEAKS
from .encoders import Encoder
from .mel import Mel
from .voiced import Voiced
from .windows import Windows

NULL = {
    "audio": torch.zeros(1, 1, 1, 1),
    "audio.on": torch.zeros(1, 1),
    "ref": torch.zeros(1, 1, 1, 1),
    "ref.on": torch.zeros(1),
}
"""name -> [1, ...], expanded to the value it replaces."""


@dataclass(frozen=True)
class Conditions:
    """encoder: of sound; windows: what a latent position hears of it."""

    encoder: Encoder = Mel()
    windows: Windows = Windows()

    @property
    def size(self) -> tuple[int, int]:
        """(S, F) of `along["audio"]` [B, T', S, F]."""
        return self.windows.size, self.encoder.width

    def __call__(self, sound: Tensor, reference: Tensor, text: Cond | None = None, valid: Tensor | None = None) -> Cond:
        """sound [B, 640 T] in [-1, 1], T = stride * k + 1; reference [B, C, h, w]: the image as one latent frame;
        text: the family's; valid [B, T]: frames that have sound (None: all). UserError where sizes do not fit."""
        return self.heard(self.encoder.features(sound), reference, text, valid)

    def heard(self, features: Tensor, reference: Tensor, text: Cond | None = None, valid: Tensor | None = None) -> Cond:
        """The same from features [B, T, F], which are worth keeping."""
        batch, frames, width = features.shape
        if width != self.encoder.width or len(reference) != batch or reference.ndim != 4:
            what = f"features [B, T, F] {[*features.shape]} with a reference {[*reference.shape]}"
            raise UserError(what, "avatar conditions", f"F is {self.encoder.width}, the reference [B, C, h, w]")
        on = torch.ones(batch, frames) if valid is None else valid.float()
        if on.shape != (batch, frames):
            raise UserError(f"valid {[*on.shape]} for {batch} clips of {frames} frames", "avatar conditions")
        along = {"audio": self.windows(features), "audio.on": present(on, self.windows).to(features.device)}
        fields = {"ref": reference, "ref.on": torch.ones(batch, device=reference.device)}
        base, null = text or Cond(), {k: v.to(features.device) for k, v in NULL.items()}
        return replace(
            base, fields={**base.fields, **fields}, along={**base.along, **along}, null={**base.null, **null}
        )

    def several(
        self, sounds: Tensor, masks: Tensor, reference: Tensor, text: Cond | None = None, speaks: Tensor | None = None
    ) -> Cond:
        """N speakers in one picture, each with a track: those who are silent listen.

        sounds [B, N, 640 T]; masks [B, N, T, H, W] in [0, 1], whose pixels are whose; speaks: bool [B, N, T], otherwise
        by loudness. along: "audio" [B, T', N, S, F], "audio.on" [B, T', N], "speakers" [B, T', N, h, w].
        """
        batch, many = sounds.shape[:2]
        if masks.shape[:2] != (batch, many):
            raise UserError(f"{masks.shape[1]} masks for {many} speakers", "avatar conditions", "one mask a speaker")
        features = self.encoder.features(sounds.flatten(0, 1)).unflatten(0, (batch, many))  # [B, N, T, F]
        if masks.shape[2] != features.shape[2]:
            what = f"masks of {masks.shape[2]} frames for sound of {features.shape[2]}"
            raise UserError(what, "avatar conditions")
        heard = self.windows(features.flatten(0, 1)).unflatten(0, (batch, many)).transpose(1, 2)
        loud = Voiced()(sounds) if speaks is None else speaks
        own = present(loud.flatten(0, 1), self.windows).unflatten(0, (batch, many)).transpose(1, 2)
        shares = pooled(masks.flatten(0, 1), self.windows, (reference.shape[-2], reference.shape[-1]))
        one = self.heard(features[:, 0], reference, text)
        return of_several(one, heard, own, shares.unflatten(0, (batch, many)).transpose(1, 2))


def of_several(one: Cond, heard: Tensor, speaks: Tensor, shares: Tensor) -> Cond:
    """Conditions of one speaker become those of N. heard: [B, T', N, S, F]; speaks: [B, T', N], 0 for who listens;
    shares: [B, T', N, h, w], how much of each latent place shows whom."""
    on = torch.where(speaks > 0, SPEAKS, LISTENS)
    along = {"audio": heard, "audio.on": on.to(heard), "speakers": shares.to(heard)}
    return replace(one, along={**one.along, **along})


def pooled(masks: Tensor, windows: Windows, grid: tuple[int, int]) -> Tensor:
    """masks [B, T, H, W] -> [B, T', h, w]: mean over the pixels and frames of each latent place."""
    windows.positions(masks.shape[1])
    small = adaptive_avg_pool2d(masks.float(), grid)
    first, rest = small[:, :1], small[:, 1:]
    return torch.cat([first, rest.unflatten(1, (-1, windows.stride)).mean(2)], 1) if rest.shape[1] else first


def present(valid: Tensor, windows: Windows) -> Tensor:
    """valid [B, T] -> [B, T']: 1 where at least half of a latent position's own frames have sound."""
    batch, frames = valid.shape
    own = pad(valid.float(), (windows.stride - 1, 0)).unfold(1, windows.stride, windows.stride)  # [B, T', stride]
    counted = torch.full((windows.positions(frames),), float(windows.stride), device=valid.device)
    counted[0] = 1
    return (own.sum(-1) * 2 >= counted).float()
