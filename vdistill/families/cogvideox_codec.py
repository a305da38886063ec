"""The codec of CogVideoX: lengths it can hold, the spare latent frame of 1.5, and decoding as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UserError
from .kl_codec import KlCodec
from .overlap import no_frames


class CogCodec(KlCodec):
    """Latents of clips of 1 + 8 k frames: an odd number of latent frames, as the VAE makes 4 n frames of an even one.

    spare: latent frames in front of a clip of 1.5, to fill its temporal patch: copies of the first, not decoded.
    most: the largest height and width of latents that the network has positions for; only: for that size alone.
    """

    def __init__(
        self, vae: Any, *, spare: int = 0, most: tuple[int, int] | None = None, only: bool = False, **more: Any
    ) -> None:
        super().__init__(vae, **more)
        self.spare, self.most, self.only = spare, most, only

    def shape(self, length: int, height: int, width: int) -> tuple[int, int, int, int]:
        step = 2 * self.temporal
        if length < 1 or (length - 1) % step:
            near = max(1, 1 + (length - 1) // step * step)
            raise UserError(f"{length} frames do not fit the codec: they must be 1 + k * {step}", "size", f"try {near}")
        channels, frames, high, wide = super().shape(length, height, width)
        self._check_size(high, wide)
        return channels, frames + self.spare, high, wide

    def _check_size(self, high: int, wide: int) -> None:
        if self.most is None:
            return
        if (high, wide) == self.most or not self.only and high <= self.most[0] and wide <= self.most[1]:
            return
        size = "x".join(str(side * self.spatial) for side in self.most)
        found = f"{high * self.spatial}x{wide * self.spatial}"
        bound = "" if self.only else "up to "
        raise UserError(f"the network has positions for clips of {bound}{size}, found {found}", "size", f"try {size}")

    def encoded(self, pixels: Tensor) -> Tensor:
        z = super().encoded(pixels)
        return torch.cat([*[z[:, :, :1]] * self.spare, z], 2)

    def unclipped(self, latents: Tensor) -> Tensor:
        return super().unclipped(latents[:, :, self.spare :])

    def stream(self) -> Callable[[Tensor], Tensor]:
        """Equal to decoding the whole clip of an odd number of latent frames (and the spare ones in front), whatever
        the chunks: the VAE normalises over each part it decodes, first three latent frames and then two by two, so
        others wait until their part is whole."""
        return CogStream(self)


class CogStream:
    """The memory of the causal convolutions, and the latents that wait, kept between chunks."""

    def __init__(self, codec: CogCodec) -> None:
        self.codec, self.spare, self.first = codec, codec.spare, True
        self.waiting: Tensor | None = None
        self.memory: dict[str, Any] | None = None

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        gone = min(self.spare, latents.shape[2])
        self.spare, latents = self.spare - gone, latents[:, :, gone:]
        z = latents if self.waiting is None else torch.cat([self.waiting, latents], 2)
        out, part = [no_frames(latents, self.codec.spatial)], 3 if self.first else 2
        while z.shape[2] >= part:
            out.append(self._decoded(z[:, :, :part]))
            z, part = z[:, :, part:], 2
        self.waiting = z
        return torch.cat(out, 2)

    def _decoded(self, part: Tensor) -> Tensor:
        codec, vae = self.codec, self.codec.vae
        scale, _ = codec._pair(part)
        z = (part / scale).to(vae.dtype)
        z = z if vae.post_quant_conv is None else vae.post_quant_conv(z)
        pixels, self.memory = vae.decoder(z, conv_cache=self.memory)
        self.first = False
        return pixels.float().clamp(-1, 1)  # type: ignore[no-any-return]

    @torch.no_grad()
    def finish(self) -> Tensor | None:
        """The frames of latents that waited, as if the last latent frame came again; None where none did. A single one
        in all is exact."""
        z, self.waiting, first = self.waiting, None, self.first
        if z is None or not z.shape[2]:
            return None
        count, more = z.shape[2], (3 if first else 2) - z.shape[2]
        if first and count == 1:
            return self._decoded(z)
        ratio = self.codec.temporal
        frames = 1 + (count - 1) * ratio if first else count * ratio
        return self._decoded(torch.cat([z, *[z[:, :, -1:]] * more], 2))[:, :, :frames]

    def state(self) -> dict[str, Tensor]:
        """What `restore` takes."""
        found = {"first": torch.tensor(self.first), "spare": torch.tensor(self.spare)}
        if self.waiting is not None:
            found["waiting"] = self.waiting.clone()
        return found | {f"memory/{name}": value for name, value in named(self.memory or {})}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        self.first, self.spare, self.waiting = bool(state["first"]), int(state["spare"]), state.get("waiting")
        kept = {name.removeprefix("memory/"): value for name, value in state.items() if name.startswith("memory/")}
        self.memory = nested(kept) or None


def named(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a tree of mappings, by their names from its root, with a slash between."""
    for name, value in tree.items():
        if isinstance(value, Tensor):
            yield above + name, value
        elif value:
            yield from named(value, f"{above}{name}/")


def nested(flat: Mapping[str, Tensor]) -> dict[str, Any]:
    """The tree that `named` names."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *above, name = path.split("/")
        place = tree
        for each in above:
            place = place.setdefault(each, {})
        place[name] = value
    return tree
