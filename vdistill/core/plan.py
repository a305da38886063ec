"""Guidance whose scales are left open: every sample brings its own, one for each condition.

For a chain, a star and joint guidance the weights are linear in the scales and (1, 0, ..., 0) at scales of 1, so
w_k = [k = 0] + sum_c a_kc (s_c - 1), and the table a holds whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from .attention import Attend, full
from .cond import Cond
from .denoiser import Denoiser, Tapped
from .errors import UserError
from .guidance import Guidance, chain, forwards, joint, star
from .guided import INPUT
from .schedule import Schedule

Form = Literal["chain", "star", "joint"]
ON = "on"
"""Field "guidance.on" [B]: 0 where a network is told no scale at all and answers plainly; 1 where it is left out."""

GAIN = "gain"
"""Fields "gain.<name>", [B] or [B, places, channels], of conditions that are pushed within a pass (`gains_in`)."""


@dataclass(frozen=True)
class Plan:
    """names: of the scales, one a condition (a joint plan has one, "a+b"); guidance: its branches, interval, shape,
    rescaling and projection; slopes: a_kc, one row a branch; ramp: name -> (factor at t = 1, at t = 0) of s_c - 1."""

    names: tuple[str, ...]
    guidance: Guidance
    slopes: tuple[tuple[float, ...], ...]
    ramp: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := sorted(self.ramp.keys() - set(self.names)):
            raise UserError(f"a ramp for {unknown}, which the plan does not guide by", "guidance", f"{self.names}")

    @property
    def dropped(self) -> list[frozenset[str]]:
        """What each branch goes without; the conditional pass is the first."""
        return [branch.dropped for branch in self.guidance.branches]

    def changed(self, guidance: Guidance) -> Plan:
        """The same with the interval, shape, rescaling and projection of another guidance."""
        own = self.guidance.branches
        return replace(self, guidance=replace(guidance, branches=own))

    def at(self, **scales: float) -> Guidance:
        """The table for one value of every scale; those left out are 1."""
        told = {name: torch.tensor([float(scales.get(name, 1.0))], dtype=torch.float64) for name in self.names}
        free = replace(self, guidance=self.guidance.within(0.0, 1.0))
        ends = [free.weights(told, torch.tensor([t], dtype=torch.float64))[:, 0].tolist() for t in (1.0, 0.0)]
        branches = zip(self.guidance.branches, *ends, strict=True)
        return replace(self.guidance, branches=tuple(replace(b, weight=(one, nil)) for b, one, nil in branches))

    def weights(self, scales: Mapping[str, Tensor], t: Tensor, on: Tensor | None = None) -> Tensor:
        """w_k, float64 [K, B] or [K, B, T]: scales [B] each, t [B] or [B, T], on [B] (0: the conditional pass only)."""
        if missing := [name for name in self.names if name not in scales]:
            raise UserError(f"no scale for {missing}", "guidance", f"found {sorted(scales)}")
        t = t.to(torch.float64)
        plan = self.guidance
        place = t if plan.shape == "linear" else (1 - torch.cos(torch.pi * t)) / 2
        acts = ((t >= plan.interval[0]) & (t <= plan.interval[1])).to(torch.float64)
        if on is not None:
            acts = acts * _beside(on.to(t), t)
        plain = torch.tensor([float(not gone) for gone in self.dropped], dtype=torch.float64, device=t.device)
        moved = plain.view(-1, *[1] * acts.ndim).expand(-1, *acts.shape)
        slopes = torch.tensor(self.slopes, dtype=torch.float64, device=t.device)
        for c, name in enumerate(self.names):
            at_noise, at_clean = self.ramp.get(name, (1.0, 1.0))
            push = _beside(scales[name].to(t) - 1, t) * (at_clean + (at_noise - at_clean) * place) * acts
            moved = moved + slopes[:, c].view(-1, *[1] * push.ndim) * push
        return moved

    def x0(
        self,
        denoiser: Denoiser,
        x: Tensor,
        t: Tensor,
        cond: Cond,
        scales: Mapping[str, Tensor],
        on: Tensor | None = None,
        *,
        attend: Attend = full,
        max_batch: int | None = None,
    ) -> Tensor:
        """The clean estimate of every sample under scales of its own. x: [B, C, T, ...]; t: [B] or [B, T].

        A sample goes only through the branches that weigh anything for it, in forwards of at most `max_batch` samples.
        """
        t = t.expand(len(x)) if t.ndim == 0 or t.shape == (1,) else t
        w = self.weights(scales, t, on)
        asked = w.flatten(2).ne(0).any(2) if w.ndim > 2 else w.ne(0)  # [K, B]
        if self.guidance.project is not None or self.guidance.rescale > 0:
            asked[0] |= asked[1:].any(0)
        if attend is not full:  # what remembers reckons with the whole batch in every branch
            asked = asked.any(1, keepdim=True).expand_as(asked)
        parts = self._branches(denoiser, x, t, cond, asked, attend, max_batch)
        if not asked[1:].any():
            return parts[0]
        return self.guidance.mix(parts, w, x).to(x.dtype)

    def _branches(
        self, denoiser: Denoiser, x: Tensor, t: Tensor, cond: Cond, asked: Tensor, attend: Attend, limit: int | None
    ) -> dict[int, Tensor]:
        """Branch -> its clean estimates, 0 for samples that do not ask it."""
        used = [k for k in range(len(asked)) if asked[k].any()]
        conds = [cond.drop(self.dropped[k]) for k in used]
        if bool(asked[used].all()):
            return dict(zip(used, forwards(denoiser, x, t, conds, attend, limit), strict=True))
        rows = [asked[k].nonzero()[:, 0] for k in used]
        xs, ts = torch.cat([x[i] for i in rows]), torch.cat([t[i] for i in rows])
        together = Cond.cat([c.select(i) for c, i in zip(conds, rows, strict=True)])
        size = len(xs) if limit is None else limit
        pieces = [slice(i, i + size) for i in range(0, len(xs), size)]
        said = torch.cat([denoiser.x0(xs[p], ts[p], together.select(p), attend=attend) for p in pieces])
        split = said.split([len(i) for i in rows])
        return {k: torch.zeros_like(x).index_copy(0, i, s) for k, i, s in zip(used, rows, split, strict=True)}


def _beside(value: Tensor, t: Tensor) -> Tensor:
    """[B] so that it broadcasts against t [B] or [B, T]."""
    return value.view(-1, *[1] * (t.ndim - 1))


def plan(form: Form, names: Sequence[str], ramp: Mapping[str, tuple[float, float]] | None = None) -> Plan:
    """A chain (conditions added in the order given), a star, or joint guidance with its scales left open.

    UserError for another form, and for names that are none or not different.
    """
    if not names or len(set(names)) != len(names):
        raise UserError(f"a plan needs one or more different conditions, found {[*names]}", "guidance")
    if form == "joint":
        tables, names = [joint(2.0, names)], ("+".join(names),)
    elif form == "chain":
        tables = [chain(*((name, 1.0 + (name == c)) for name in names)) for c in names]
    elif form == "star":
        tables = [star(**{name: 1.0 + (name == c) for name in names}) for c in names]
    else:
        raise UserError(f"form {form!r}; known: {', '.join(get_args(Form))}", "guidance")
    whole = tables[0]
    found = [{branch.dropped: branch.weight[0] - (not branch.dropped) for branch in table.branches} for table in tables]
    slopes = tuple(tuple(each[branch.dropped] for each in found) for branch in whole.branches)
    return Plan(tuple(names), whole, slopes, dict(ramp or {}))


def tell(cond: Cond, scales: Mapping[str, Tensor], on: Tensor | None = None) -> Cond:
    """The condition with scales [B] of its own for every sample, under "guidance.<name>", and "guidance.on"."""
    for name, scale in scales.items():
        cond = cond.with_field(f"{INPUT}.{name}", scale)
    return cond if on is None else cond.with_field(f"{INPUT}.{ON}", on)


def scales_in(cond: Cond) -> dict[str, Tensor]:
    """The scales a condition carries, name -> [B]."""
    found = {k.removeprefix(f"{INPUT}."): v for k, v in cond.fields.items() if k.startswith(f"{INPUT}.")}
    found.pop(ON, None)
    return found


def gains_in(cond: Cond) -> dict[str, Tensor]:
    """name -> gain [B]: what is read of a condition, r, is to be n + gain (r - n), n what is read of its null."""
    return {k.removeprefix(f"{GAIN}."): v for k, v in cond.fields.items() if k.startswith(f"{GAIN}.")}


def untold(cond: Cond) -> Cond:
    """The same without any scale."""
    return replace(cond, fields={k: v for k, v in cond.fields.items() if not k.startswith(f"{INPUT}.")})


@dataclass(frozen=True)
class AsTold:
    """A denoiser guided, by a plan, with the scales the condition carries: the teacher of any method whose batches were
    told scales. The network inside is told none; without any in the condition it is asked plainly."""

    denoiser: Denoiser
    plan: Plan
    max_batch: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.denoiser, Tapped):
            object.__setattr__(self, "taps", self.denoiser.taps)

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        scales, bare = scales_in(cond), untold(cond)
        if not scales:
            return self.denoiser.x0(x, t, bare, attend=attend)
        on = cond.fields.get(f"{INPUT}.{ON}")
        return self.plan.x0(self.denoiser, x, t, bare, scales, on, attend=attend, max_batch=self.max_batch)


@dataclass(frozen=True)
class Telling:
    """A network that takes scales as inputs, told one value of each: again a denoiser, of one pass.

    gains: name -> how far what the network reads of a condition is pushed from its null (`gains_in`), for those that
    are not 1."""

    denoiser: Denoiser
    scales: Mapping[str, float]
    gains: Mapping[str, float] = field(default_factory=dict)

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def x0(self, x: Tensor, t: Tensor, cond: Cond, *, attend: Attend = full) -> Tensor:
        told = {k: torch.full((len(x),), v, device=x.device, dtype=x.dtype) for k, v in self.scales.items()}
        more = tell(cond, told)
        for name, gain in self.gains.items():
            more = more.with_field(f"{GAIN}.{name}", torch.full((len(x),), gain, device=x.device, dtype=x.dtype))
        return self.denoiser.x0(x, t, more, attend=attend)
