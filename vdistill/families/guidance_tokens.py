"""Several guidance scales as inputs of a stock network: learned tokens its blocks read, a shift of its time, or both.

E_c(s) = (1 + gamma_c(s)) tau_c + beta_c(s), K tokens a condition (FADA, arXiv 2412.16915; the form is our
reconstruction). They act from beside the network, for the time of one forward pass, and change nothing at birth.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from diffusers.models.embeddings import TimestepEmbedding
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention, silu

from ..core.checkpoint import fill, read_tensors
from ..core.cond import Cond
from ..core.errors import UserError
from ..core.guided import INPUT
from ..core.plan import GAIN, ON, scales_in
from .learned_gains import LearnedGains
from .scale_branch import ScaleBranch

NAME = "scales"
"""Under which a network holds them."""
SIZES, WEIGHTS = "guidance_tokens.json", "guidance_tokens.safetensors"
Mode = Literal["token", "adaln", "both", "fixed"]
Adds = Callable[[Tensor], Tensor]
"""A block's answer -> what is added to it."""
WAVES = 4  # sines and cosines of log(1 + s), of frequencies 1, 2, 4, 8


class Host(Protocol):
    """What tokens need of a stock network."""

    @property
    def model(self) -> Any: ...

    @property
    def parts(self) -> dict[str, nn.Module]: ...

    def blocks(self) -> Sequence[nn.Module]: ...

    def width(self, layer: int) -> int: ...

    def tapped(self, layer: int, out: Any) -> Tensor: ...


@dataclass(frozen=True)
class TokenSize:
    """names: of the scales; blocks: widths of the network's blocks; time: width of its time embedding; mode: token,
    adaln (the time is shifted), both, or fixed (tokens that are told nothing); count: K; width: of a token and of its
    readers; most: name -> largest scale learned; usual: name -> the scale it is used at; gain: name -> how much
    farther than at its usual scale what is read of it is pushed from its null, for each 1 of scale (`gains_at`);
    pushed: conditions for which that is learned (learned_gains.py); reads: (places where they are read, channels);
    rank: of the branch beside each block (scale_branch.py), 0 for none."""

    names: tuple[str, ...]
    blocks: tuple[int, ...]
    time: int = 0
    mode: Mode = "token"
    count: int = 4
    width: int = 128
    most: Mapping[str, float] = field(default_factory=dict)
    usual: Mapping[str, float] = field(default_factory=dict)
    gain: Mapping[str, float] = field(default_factory=dict)
    pushed: tuple[str, ...] = ()
    reads: tuple[int, int] = (0, 0)
    rank: int = 0

    def __post_init__(self) -> None:
        for name, k in self.gain.items():
            if name in self.pushed:
                raise ValueError(f"gain of {name}: {k}, and that is learned; leave it out")
            if name not in self.names or name not in self.usual or not 0 <= k < math.inf:
                raise ValueError(f"gain of {name}: {k}, expected a number from 0 of one of {', '.join(self.usual)}")

    def gains_at(self, scales: Mapping[str, float]) -> dict[str, float]:
        """name -> 1 + gain (scale - usual), not below 0, of those that are not 1: none at the usual scales."""
        found = {name: max(0.0, 1 + k * (scales[name] - self.usual[name])) for name, k in self.gain.items()}
        return {name: gain for name, gain in found.items() if gain != 1}


class ScaleMlp(nn.Module):
    """A scale [B] -> [B, out]: two layers over log(1 + s) and its waves. silent: zero at birth."""

    def __init__(self, out: int, width: int = 64, silent: bool = False) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(1 + 2 * WAVES, width), nn.Linear(width, out)
        if silent:
            nn.init.zeros_(self.outer.weight)
            nn.init.zeros_(self.outer.bias)

    def forward(self, scale: Tensor) -> Tensor:
        place = torch.log1p(scale.float())[:, None]
        waves = place * 2.0 ** torch.arange(WAVES, device=scale.device)
        seen = torch.cat([place, waves.sin(), waves.cos()], 1).to(self.inner.weight.dtype)
        return self.outer(silu(self.inner(seen)))  # type: ignore[no-any-return]


class ScaleTokens(nn.Module):
    """Scales {name: [B]} -> tokens [B, names * K, D]. fixed: the same whatever the scales.

    Tokens differ by scale from birth: their readers are silent then, and with both at zero neither would learn.
    """

    def __init__(self, names: Sequence[str], count: int, width: int, fixed: bool = False) -> None:
        super().__init__()
        self.names = tuple(names)
        self.tau = nn.Parameter(torch.randn(len(self.names), count, width) / width**0.5)
        self.change = None if fixed else nn.ModuleList(ScaleMlp(2 * count * width) for _ in self.names)

    def forward(self, scales: Mapping[str, Tensor]) -> Tensor:
        rows = len(next(iter(scales.values())))
        if self.change is None:
            return rearrange(self.tau, "c k d -> 1 (c k) d").expand(rows, -1, -1)
        made = []
        for name, tau, change in zip(self.names, self.tau, self.change, strict=True):
            gamma, beta = change(scales[name]).view(rows, 2, *tau.shape).unbind(1)
            made.append((1 + gamma) * tau + beta)
        return torch.cat(made, 1)


class TokenReader(nn.Module):
    """h [B, N, D] -> what is added to it: cross-attention to the tokens, whose output layer is zero at birth."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // 64)
        self.ask, self.key, self.value = nn.Linear(dim, width), nn.Linear(width, width), nn.Linear(width, width)
        self.give = nn.Linear(width, dim)
        nn.init.zeros_(self.give.weight)
        nn.init.zeros_(self.give.bias)

    def forward(self, h: Tensor, tokens: Tensor) -> Tensor:
        x = layer_norm(h.to(self.ask.weight.dtype), h.shape[-1:])
        read = (self.ask(x), self.key(tokens), self.value(tokens))
        q, k, v = (rearrange(y, "b n (h d) -> b h n d", h=self.heads) for y in read)
        out = rearrange(scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")
        return self.give(out).to(h.dtype)  # type: ignore[no-any-return]


class GuidanceTokens(nn.Module):
    """Reads Cond fields "guidance.<name>" [B], and "guidance.on" [B]: 0 for samples that are told nothing. Without any
    of them the network answers as if these modules were not there."""

    def __init__(self, size: TokenSize) -> None:
        super().__init__()
        self.size, self.learned = size, False  # learned: they were opened with a model that was taught by them
        has_tokens, has_shift = size.mode != "adaln", size.mode in ("adaln", "both")
        self.tokens = ScaleTokens(size.names, size.count, size.width, size.mode == "fixed") if has_tokens else None
        self.readers = nn.ModuleList(TokenReader(dim, size.width) for dim in size.blocks if has_tokens)
        self.shifts = nn.ModuleList(ScaleMlp(size.time, silent=True) for _ in size.names if has_shift)
        self.gains = LearnedGains(size.pushed, *size.reads) if size.pushed else None
        self.branches = nn.ModuleList(ScaleBranch(size.names, dim, size.rank) for dim in size.blocks if size.rank)

    def adds(self, cond: Cond, t: Tensor) -> Cond:
        """The conditions with the gains that adapters push by, where scales are told and gains are learned."""
        scales = scales_in(cond)
        if self.gains is None or not scales.keys() >= set(self.size.pushed):
            return cond
        on = cond.fields.get(f"{INPUT}.{ON}", torch.ones(len(t), device=t.device))
        for name, gain in self.gains(scales, t, on).items():
            cond = cond.with_field(f"{GAIN}.{name}", gain)
        return cond

    @contextmanager
    def acting(self, host: Host, x: Tensor, cond: Cond) -> Iterator[None]:
        """Inside, `host` is told the scales that `cond` carries. UserError for some of them without the others."""
        scales = scales_in(cond)
        if not scales:
            yield
            return
        if missing := [name for name in self.size.names if name not in scales]:
            raise UserError(f"told {sorted(scales)}, and learned {missing} too", "guidance", "tell all scales or none")
        on = cond.fields.get(f"{INPUT}.{ON}", torch.ones(len(x), device=x.device))
        blocks = list(host.blocks()) if self.tokens is not None else []
        stock, hook = [block.forward for block in blocks], None
        if len(self.shifts):
            shift = torch.stack([each(scales[n]) for n, each in zip(self.size.names, self.shifts, strict=True)]).sum(0)
            hook = time_embedder(host.model).register_forward_hook(_shifted(on[:, None] * shift))
        if self.tokens is not None:
            tokens = self.tokens(scales).to(next(self.parameters()).dtype)
            for i, (block, reader) in enumerate(zip(blocks, self.readers, strict=True)):
                adds: list[Adds] = [partial(_told, reader, tokens, on)]
                if len(self.branches):
                    adds.append(partial(self.branches[i], scales=scales, on=on))
                block.forward = _Behind(host, i, stock[i], adds)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for block, own in zip(blocks, stock, strict=True):
                block.forward = own  # type: ignore[method-assign]
            if hook is not None:
                hook.remove()

    def beyond(self, scales: Mapping[str, float]) -> list[str]:
        """Names of scales past what was learned."""
        most = self.size.most
        return [name for name, scale in scales.items() if name in most and not 0 <= scale <= most[name]]

    # -- on disk -----------------------------------------------------------------------------------------------------

    def write(self, folder: Path) -> None:
        """Sizes and weights, beside the stock pipeline."""
        (folder / SIZES).write_text(json.dumps(asdict(self.size), indent=1) + "\n")
        save_file({k: v.detach().contiguous() for k, v in self.state_dict().items()}, folder / WEIGHTS)

    @classmethod
    def read(cls, folder: Path, dtype: torch.dtype = torch.float32) -> GuidanceTokens | None:
        """Those of a model folder; None where it has none. UserError for damaged files."""
        path = folder / SIZES
        if not path.is_file():
            return None
        try:
            said = json.loads(path.read_text())
            lists = {key: tuple(said[key]) for key in ("names", "blocks", "pushed", "reads") if key in said}
            made = cls(TokenSize(**{**said, **lists}))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"is damaged ({error})", str(path), "copy the folder again") from error
        fill(made, read_tensors(folder / WEIGHTS), str(folder / WEIGHTS))
        made.learned = True
        return made.to(dtype)


class _Behind:
    """A block's forward with what is added to its answer. It stands in the block's own `forward`, which gradient
    checkpointing keeps for the second time it runs."""

    def __init__(self, host: Host, layer: int, stock: Callable[..., Any], adds: Sequence[Adds]) -> None:
        self.host, self.layer, self.stock, self.adds = host, layer, stock, adds

    def __call__(self, *given: Any, **named: Any) -> Any:
        out = self.stock(*given, **named)
        h = self.host.tapped(self.layer, out)
        more = sum((add(h) for add in self.adds), h)
        if out is h:
            return more
        if isinstance(out, tuple) and any(each is h for each in out):
            return tuple(more if each is h else each for each in out)
        raise UserError("its blocks have no place for tokens", "scales.tokens", "take mode adaln")


def _told(reader: nn.Module, tokens: Tensor, on: Tensor, h: Tensor) -> Tensor:
    return on.to(h.dtype).view(-1, 1, 1) * reader(h, tokens)  # type: ignore[no-any-return]


def _shifted(shift: Tensor) -> Callable[..., Tensor]:
    def hook(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        more = shift.to(out.dtype)
        return out + (more if out.ndim == 2 else more[:, None])  # [B, D] or, with a time for each token, [B, N, D]

    return hook


def time_embedder(model: nn.Module) -> TimestepEmbedding:
    """The layer a stock network embeds its time with. UserError for one that has none."""
    found = [m for m in model.modules() if isinstance(m, TimestepEmbedding)]
    if not found:
        raise UserError(f"{type(model).__name__} embeds its time in a way of its own", "scales.tokens", "mode: token")
    return found[0]


def tokens_for(host: Host, names: Sequence[str], most: Mapping[str, float], mode: Mode, **said: Any) -> GuidanceTokens:
    """New tokens for a network, which change nothing yet. said: the other fields of TokenSize.

    UserError for a model of two networks.
    """
    if len(host.parts) > 1:
        raise UserError("tokens act on one network, and this model has two", "scales.tokens", "take mode none")
    blocks = tuple(host.width(i) for i in range(len(host.blocks()))) if mode != "adaln" else ()
    time = int(time_embedder(host.model).linear_2.out_features) if mode in ("adaln", "both") else 0
    reads = (len(host.blocks()) + 1, host.width(0)) if said.get("pushed") else (0, 0)
    return GuidanceTokens(TokenSize(tuple(names), blocks, time, mode, most=dict(most), reads=reads, **said))
