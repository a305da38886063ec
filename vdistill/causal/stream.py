"""A stream without end: the chunk loop as a generator that can be told a new prompt, shown pictures, saved and resumed.

Nothing is made before it is asked for, so a reader that stops loses nothing. A draw is named by the block it is for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ..core.cond import Cond, Fields
from ..core.denoiser import Denoiser
from ..core.errors import UserError
from ..core.rng import EachRng, Rng
from ..core.sampling import at
from ..core.sampling import start as scaled
from .along import Along
from .attend import View
from .cache import Cache
from .rollout import Plan, block_rng, make_block, numbers, remember, remember_again

Switch = Literal["keep", "recache", "blend", "cut"]


@dataclass
class Stream:
    """student: a Denoiser; shape: [C, H, W] of a latent; cond: of the first prompt, one sample or as many as clips are
    made at once; seeds: of the noise of each; store: where the cache is kept; recompute: remember anew for every block,
    from the clean blocks that are still seen (Krea).

    number: position the next block begins at; begun: where the present scene began; recent: clean blocks that are still
    seen, by the number they begin at; heard: what runs along the sequence, of blocks to come, taken out of the
    condition or told later; followed: the same of the recent ones.
    """

    student: Denoiser
    plan: Plan
    shape: tuple[int, int, int]
    cond: Cond
    seeds: tuple[int, ...] = (0,)
    device: torch.device | str = "cpu"
    store: torch.device | None = None
    recompute: bool = False
    number: int = 0
    begun: int = 0
    recent: dict[int, Tensor] = field(default_factory=dict)
    heard: Along = field(default_factory=Along)
    followed: dict[int, Fields] = field(default_factory=dict)
    cache: Cache = field(init=False)
    fading: tuple[Cond, int, int] | None = None
    """(the prompt before, blocks that are blended, blocks of them made)"""

    def __post_init__(self) -> None:
        self.cache = self._empty()
        self.hear(self.cond.along)
        self.cond = replace(self.cond, along={})

    def hear(self, along: Fields) -> None:
        """What the next latents that nothing was told of follow: name -> [B, n, ...], in pieces of any length.

        From then on a block is made only where all that it follows has been told. UserError for another kind of thing
        than before.
        """
        if along and not self.heard.values:
            self.heard.start = self.number * self.plan.unit
        if along:
            self.heard.hear({name: value.to(self.device) for name, value in along.items()})

    # -- making blocks ----------------------------------------------------------------------------------------------

    def _empty(self) -> Cache:
        return Cache(self.plan.layout, self.store, told={})

    @property
    def next_count(self) -> int:
        """Positions of the next block."""
        layout = self.plan.layout
        return (layout.first or layout.block) if self.number == self.begun else layout.block

    def __iter__(self) -> Stream:
        return self

    @torch.no_grad()
    def __next__(self) -> Tensor:
        """The next clean block of latents [B, C, n, H, W]."""
        return self._made(make_block, self._noise(self.next_count), self._plan())

    @torch.no_grad()
    def edit(self, source: Tensor, strength: float) -> Tensor:
        """The next block made out of latents [B, C, n, H, W] that are given, noised to `strength` in (0, 1]: the steps
        below it are taken (SDEdit, Meng et al. 2021)."""
        times = tuple(t for t in self.plan.steps(self.number - self.begun) if t < strength)
        plan = replace(self._plan(), times=(strength, *times), first=None)
        known, schedule = self._checked(source), self.student.schedule
        level = at(known, strength)
        begun = schedule.noise(known, self._noise(self.next_count), level)
        size = scaled(schedule, torch.ones_like(known), strength)  # by which samplers scale what they are given
        return self._made(make_block, begun / size, plan)

    @torch.no_grad()
    def show(self, latents: Tensor) -> None:
        """Take given latents [B, C, n, H, W] as the next block: a first picture, or pictures in between."""
        known = self._checked(latents)

        def make(student: Denoiser, eps: Tensor, cond: Cond, cache: Cache, plan: Plan, rng: Rng, ids: range) -> Tensor:
            remember(student, known, cond, View(cache, ids), plan, block_rng(rng, ids[0]))
            return known

        self._made(make, known, self._plan())

    def _plan(self) -> Plan:
        first = self.plan.first if self.number == self.begun else None
        return self.plan if first is None else replace(self.plan, times=first, first=None)

    def _noise(self, count: int) -> Tensor:
        c, *sides = self.shape
        return self._rng(self.number).normal("noise", (self.batch, c, count * self.plan.unit, *sides)).to(self.device)

    def nbytes(self) -> int:
        """Bytes that are kept from block to block."""
        return self.cache.nbytes() + sum(x.numel() * x.element_size() for x in self.recent.values())

    @property
    def batch(self) -> int:
        """Clips made at once."""
        return len(self.seeds)

    def _rng(self, start: int) -> EachRng:
        return EachRng(self.seeds[0], turn=f"stream/{start}", seeds=self.seeds)

    def _made(self, make: Callable[..., Tensor], x: Tensor, plan: Plan) -> Tensor:
        if self.recompute and self.recent:
            self._recache()
        count = x.shape[2] // self.plan.unit
        ids = range(self.number, self.number + count)
        heard = self.heard.of(self.number * self.plan.unit, x.shape[2])
        cond, plan = replace(self._cond(), along=heard), replace(plan, first=None)
        block = make(self.student, x, cond, self.cache, plan, self._rng(self.number), ids)
        self.recent[self.number], self.followed[self.number] = block, heard
        self.number += count
        self._forget()
        return block

    def _forget(self) -> None:
        """Drop the clean blocks that no later block sees."""
        kept = set(self.cache.ids)
        gone = [start for start, x in self.recent.items() if kept.isdisjoint(numbers(start, x, self.plan))]
        for start in gone:
            del self.recent[start]
            self.followed.pop(start, None)
        self.heard.forget(self.number * self.plan.unit)

    def _checked(self, latents: Tensor) -> Tensor:
        expected = (self.batch, self.shape[0], self.next_count * self.plan.unit, *self.shape[1:])
        if tuple(latents.shape) != expected:
            raise UserError(f"latents of shape {tuple(latents.shape)} are no block; expected {expected}", "stream")
        return latents.to(self.device)

    # -- another prompt ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def switch(self, cond: Cond, how: Switch = "recache", blocks: int = 4) -> None:
        """From the next block on, another prompt.

        keep: what is remembered stays as it was made. recache: it is made again under the new prompt, from the clean
        blocks, one after the other as they were made (LongLive). blend: as keep, and the prompt goes over in equal
        steps within `blocks` blocks (Krea). cut: everything is forgotten; the next block begins another scene.
        """
        if cond.along:
            raise UserError(f"{min(cond.along)} follows the sequence", "stream.switch", "tell it by stream.hear")
        if how == "blend":
            if blocks < 1:
                raise UserError(f"a blend takes 1 block or more, found {blocks}", "stream.switch")
            self.fading = (self._cond(), blocks, 0)
            self.cond = cond
            return
        self.cond, self.fading = cond, None
        if how == "cut":
            self.cache, self.recent, self.followed, self.begun = self._empty(), {}, {}, self.number
        elif how == "recache":
            self._recache()

    def _recache(self) -> None:
        self.cache = self._empty()

        def cond(start: int) -> Cond:
            return replace(self.cond, along=self.followed.get(start, {}))

        remember_again(self.student, self.recent, cond, self.cache, self.plan, self._rng)

    def _cond(self) -> Cond:
        """The condition of the next block; counts a blend on."""
        if self.fading is None:
            return self.cond
        before, blocks, made = self.fading
        share = (made + 1) / blocks
        self.fading = (before, blocks, made + 1) if share < 1 else None
        return blended(before, self.cond, share) if share < 1 else self.cond

    # -- what is kept of it -----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything another Stream of the same student needs to go on, as tensors."""
        numbers = torch.tensor([self.number, self.begun, *self.seeds], dtype=torch.int64)
        found = {"numbers": numbers} | {f"cache/{k}": v for k, v in self.cache.state().items()}
        found |= {f"recent/{start}": block.clone() for start, block in self.recent.items()}
        found |= {f"heard/{k}": v for k, v in self.heard.state().items()}
        found |= {f"followed/{n}/{k}": v.clone() for n, told in self.followed.items() for k, v in told.items()}
        found |= _packed("cond", self.cond)
        if self.fading is not None:
            found |= _packed("before", self.fading[0])
            found["fading"] = torch.tensor(self.fading[1:], dtype=torch.int64)
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken of. UserError where it is of another shape or type."""
        for key, value in state.items():
            if key.startswith("recent/") and (value.shape[1], *value.shape[3:]) != self.shape:
                raise UserError(f"is of latents {tuple(value.shape)}, this stream makes {self.shape}", "snapshot")
        self.number, self.begun, *seeds = (int(n) for n in state["numbers"])
        self.seeds = tuple(seeds)
        self.cache = self._empty()
        self.cache.restore(_under("cache/", state))
        self.recent = {int(k): v.to(self.device) for k, v in _under("recent/", state).items()}
        self.heard = Along.restored(_under("heard/", state), self.device)
        follows = {n: _under(f"followed/{n}/", state) for n in self.recent}
        self.followed = {n: {k: v.to(self.device) for k, v in told.items()} for n, told in follows.items()}
        self.cond = _unpacked("cond", state, self.device)
        self.fading = None
        if "fading" in state:
            blocks, made = (int(n) for n in state["fading"])
            self.fading = (_unpacked("before", state, self.device), blocks, made)


def blended(a: Cond, b: Cond, share: float) -> Cond:
    """Between two prompts of equal shape: numbers go over in equal steps, masks and counts are the later's."""

    def mixed(old: Tensor, new: Tensor) -> Tensor:
        if old.shape != new.shape or not new.is_floating_point():
            return new
        return torch.lerp(old, new, share)

    return replace(b, fields={k: mixed(a.fields.get(k, v), v) for k, v in b.fields.items()})


def _packed(name: str, cond: Cond) -> dict[str, Tensor]:
    kinds = {"fields": cond.fields, "along": cond.along, "null": cond.null}
    return {f"{name}/{kind}/{k}": v.clone() for kind, table in kinds.items() for k, v in table.items()}


def _unpacked(name: str, state: Mapping[str, Tensor], device: torch.device | str) -> Cond:
    tables = (_under(f"{name}/{kind}/", state) for kind in ("fields", "along", "null"))
    return Cond(*({k: v.to(device) for k, v in table.items()} for table in tables))


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
