"""Adapters that let a stock video transformer hear and look at a reference: beside it, without touching its weights.

They act for the time of one forward pass: the processors of the layers that read text are wrapped (`reading.Reading`),
and the reference is added to the patch embedding where it lies. A network with newborn adapters is, bit for bit, the
stock one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..core.checkpoint import fill, read_tensors
from ..core.cond import Cond
from ..core.errors import UserError
from ..core.plan import gains_in
from .adapter_tokens import AudioTokens, Projector, ReferenceTokens
from .reading import BlockReaders, Push, Reading, Told

NAME = "talk"
"""Under which a network holds them."""
SIZES, WEIGHTS = "talk_adapters.json", "talk_adapters.safetensors"


class Host(Protocol):
    """What adapters need of a stock network."""

    @property
    def model(self) -> Any: ...

    @property
    def patch(self) -> tuple[int, int, int]: ...

    def readers(self) -> Sequence[Any]: ...


@dataclass(frozen=True)
class AdapterSize:
    """dim, layers, channels, patch: of the network; features: of sound at each of `slots` places, 0 for deaf adapters;
    width: of tokens; projector, mean, std: see AudioTokens; ref: whether a reference is read; near: whether it is added
    where it lies, too; key_norm: whether keys are normed; every: each how many-th block reads; encoder, causal, ahead:
    what makes the features, how it hears, and how many frames ahead a window reaches."""

    dim: int
    layers: int
    channels: int
    patch: tuple[int, int] = (2, 2)
    features: int = 320
    slots: int = 8
    width: int = 256
    projector: Projector = "mlp"
    mean: float = 0.0
    std: float = 1.0
    ref: bool = True
    near: bool = True
    key_norm: bool = True
    every: int = 1
    encoder: str = "mel"
    causal: bool = False
    ahead: int = 2


class Adapters(nn.Module):
    """Reads of Cond: along "audio" [B, T, S, F], or [B, T, N, S, F] of N speakers; "audio.on" [B, T] or [B, T, N] of
    NULL, SPEAKS, LISTENS; "speakers" [B, T, N, h, w], share of each token of the grid that shows a speaker; fields
    "ref" [B, C, h, w], a latent frame, and "ref.on" [B]. What is not there is a learned null. Fields "gain.audio" and
    "gain.ref", [B] or [B, layers + 1, dim], push what is read of either from its null (`reading.Push`), in every layer
    and, last, where the reference lies; without them it stays as learned.
    """

    def __init__(self, size: AdapterSize) -> None:
        super().__init__()
        self.size = size
        reads = [i % size.every == 0 for i in range(size.layers)]
        self.audio = None
        if size.features:
            self.audio = AudioTokens(size.features, size.width, size.slots, size.projector, size.mean, size.std)
        self.ref = ReferenceTokens(size.channels, size.width, size.patch) if size.ref else None
        self.near = nn.Linear(size.width, size.dim, bias=False) if size.ref and size.near else None
        if self.near is not None:
            nn.init.zeros_(self.near.weight)
        self.blocks = nn.ModuleList(
            BlockReaders(size.width, size.dim, bool(size.features) and read, size.ref and read, size.key_norm)
            for read in reads
        )

    # -- acting on a network ---------------------------------------------------------------------------------------

    def adds(self, cond: Cond, t: Tensor) -> Cond:
        """Nothing."""
        return cond

    @contextmanager
    def acting(self, host: Host, x: Tensor, cond: Cond) -> Iterator[None]:
        """Inside, the layers of `host` that read text read what `cond` holds beside it. x: [B, C, T, H, W]."""
        told = self.told(x, cond, host.patch)
        layers = host.readers()
        stock = [layer.processor for layer in layers]
        for place, (layer, readers, processor) in enumerate(zip(layers, self.blocks, stock, strict=True)):
            assert isinstance(readers, BlockReaders)
            layer.processor = Reading(processor, readers, told.at(place))
        hook = host.model.patch_embedding.register_forward_hook(self.placed(told.at(len(self.blocks))))
        try:
            yield
        finally:
            hook.remove()
            for layer, processor in zip(layers, stock, strict=True):
                layer.processor = processor

    def told(self, x: Tensor, cond: Cond, patch: tuple[int, int, int]) -> Told:
        """The tokens of a batch. UserError for sound of another number of latent frames, or masks of another grid."""
        frames, high, wide = x.shape[2] // patch[0], x.shape[3] // patch[1], x.shape[4] // patch[2]
        audio, where = self.heard(len(x), frames, (high, wide), cond)
        ref = None
        if self.ref is not None:
            given = cond.fields.get("ref")
            if given is None:
                ref = self.ref.nothing(len(x))
            else:
                on = cond.fields.get("ref.on", torch.ones(len(x), device=x.device))
                ref = self.ref(given, on)
        gains = gains_in(cond)
        louder = Push(gains["audio"], self.audio.null) if self.audio is not None and "audio" in gains else None
        nearer = Push(gains["ref"], self.ref.null) if self.ref is not None and "ref" in gains else None
        return Told(audio, where, ref, louder, nearer)

    def heard(self, count: int, frames: int, grid: tuple[int, int], cond: Cond) -> tuple[Tensor | None, Tensor | None]:
        """(audio tokens, shares of speakers) as `Told` has them."""
        if self.audio is None:
            return None, None
        audio = cond.along.get("audio")
        if audio is None:
            return self.audio.nothing(count), None
        if audio.shape[1] != frames:
            raise UserError(f"sound of {audio.shape[1]} latent frames for a sample of {frames}", "audio")
        if audio.ndim == 4:
            audio = audio[:, :, None]
        on = cond.along.get("audio.on", torch.ones(audio.shape[:3], device=audio.device))
        on = on if on.ndim == 3 else on[:, :, None]
        if "speakers" not in cond.along and audio.shape[2] > 1:
            raise UserError(f"{audio.shape[2]} speakers, and no mask says where they are", "audio")
        where = self.shares(cond.along.get("speakers"), audio.shape[2], grid)
        return self.audio(audio, on.expand(audio.shape[:3])), where

    def shares(self, masks: Tensor | None, speakers: int, grid: tuple[int, int]) -> Tensor | None:
        """Masks [B, T, N, h, w] -> [B, T, N, n] on the token grid; where they overlap their sum is brought to 1."""
        if masks is None:
            return None
        if masks.shape[2] != speakers:
            raise UserError(f"{masks.shape[2]} masks for {speakers} speakers", "speakers")
        if any(n % g for n, g in zip(masks.shape[3:], grid, strict=True)):
            raise UserError(f"masks of {tuple(masks.shape[3:])} do not tile tokens {grid}", "speakers")
        pooled = nn.functional.adaptive_avg_pool2d(masks.flatten(0, 2)[:, None].float(), grid)
        pooled = pooled.view(*masks.shape[:3], -1)
        return pooled / pooled.sum(2, keepdim=True).clamp_min(1.0)

    def lies(self, token: Tensor) -> Tensor:
        """Tokens [..., W] of the reference as they lie on the network's own, [..., D]."""
        assert self.near is not None
        return self.near(token.to(self.near.weight.dtype))  # type: ignore[no-any-return]

    def placed(self, told: Told) -> Any:
        """A hook of the patch embedding that adds the reference, or its null, to every latent frame."""

        def hook(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            if self.near is None or told.ref is None:
                return out
            more = self.lies(told.ref)
            if told.nearer is not None:
                more = told.nearer(more, self.lies)
            more = more.to(out.dtype).transpose(1, 2)  # [B, D, n or 1]
            if more.shape[-1] > 1:
                if more.shape[-1] != out.shape[3] * out.shape[4]:
                    raise UserError(
                        f"a reference of {more.shape[-1]} tokens for frames of {out[0, 0, 0].numel()}", "ref"
                    )
                more = more.unflatten(2, out.shape[3:])[:, :, None]
            else:
                more = more[..., None, None]
            return out + more

        return hook

    # -- on disk -----------------------------------------------------------------------------------------------------

    def write(self, folder: Path) -> None:
        """Sizes and weights, beside the stock pipeline."""
        (folder / SIZES).write_text(json.dumps(asdict(self.size), indent=1) + "\n")
        save_file({k: v.detach().contiguous() for k, v in self.state_dict().items()}, folder / WEIGHTS)

    @classmethod
    def read(cls, folder: Path, dtype: torch.dtype = torch.float32) -> Adapters | None:
        """Those of a model folder; None where it has none. UserError for damaged files."""
        path = folder / SIZES
        if not path.is_file():
            return None
        try:
            said = json.loads(path.read_text())
            size = AdapterSize(**{**said, "patch": tuple(said["patch"])})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"is damaged ({error})", str(path), "copy the folder again") from error
        made = cls(size)
        fill(made, read_tensors(folder / WEIGHTS), str(folder / WEIGHTS))
        return made.to(dtype)


def size_for(host: Host, channels: int, **said: Any) -> AdapterSize:
    """Sizes of adapters for a network. channels: of its latents; said: the rest of AdapterSize.

    UserError for a network that does not read its text apart, or has tokens of several latent frames.
    """
    layers, patch = host.readers(), host.patch
    if not layers or not hasattr(host.model, "patch_embedding"):
        raise UserError(f"adapters need a network of Wan's kind, found {type(host.model).__name__}", "family.adapters")
    if patch[0] != 1:
        raise UserError(f"a token holds {patch[0]} latent frames, adapters need 1", "family.adapters")
    return AdapterSize(int(layers[0].to_q.out_features), len(layers), channels, patch[1:], **said)
