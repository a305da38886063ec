"""The training loop: turns, micro-batches, clipping, the finite guard, cadence. The only home of accelerate.

Gradients are averaged over ranks here, after the backward passes, so any composition of losses and learners trains
under data parallelism unchanged; micro-batch m of rank r is global micro-batch m * world + r, hence two ranks with one
micro-batch compute what one rank computes with two.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from . import checkpoint
from .errors import NonFinite, UserError
from .optim import Ema, Optimizer, OptimSpec
from .rng import Rng
from .step import Batch, Carried, Loss, Method

CARRIED = "carried"  # group of a checkpoint
Source = Callable[[int, int], Batch]  # (step, global micro-batch number) -> Batch


@dataclass(frozen=True)
class Cadence:
    """checkpoint, validate: every so many steps (0: at the end, never); keep: checkpoints kept; micro: micro-batches
    per rank and step; max_bad: non-finite updates in a row that stop the run."""

    checkpoint: int = 100
    validate: int = 0
    keep: int = 2
    micro: int = 1
    max_bad: int = 5


@dataclass(frozen=True)
class Report:
    """One step's news for whoever watches. values: what metrics.jsonl got; seconds: of the step."""

    step: int
    total: int
    values: Mapping[str, float]
    seconds: float


class Engine:
    """Trains a method's learners. `out` receives checkpoints/ and metrics.jsonl; nothing else touches the disk."""

    def __init__(
        self,
        method: Method,
        source: Source,
        optim: Mapping[str, OptimSpec],
        out: Path,
        *,
        steps: int,
        seed: int = 0,
        cadence: Cadence = Cadence(),
        precision: str = "no",
        accelerator: Accelerator | None = None,
    ) -> None:
        self.accelerator = accelerator or Accelerator(mixed_precision=precision)
        self.method, self.source, self.out, self.steps, self.seed = method, source, Path(out), steps, seed
        self.cadence, self.step, self.bad, self.stopped_by = cadence, 0, 0, ""
        self.skipped = 0  # updates of this sitting that were not finite
        for module in method.learners.values():
            module.to(self.accelerator.device)
        self.optim = {n: Optimizer(optim[n], m) for n, m in method.learners.items()}
        self.ema = {n: Ema(optim[n].ema, m, optim[n].ema_warmup) for n, m in method.learners.items() if optim[n].ema}
        self._writer: ThreadPoolExecutor | None = None
        self._writing: Future[Path] | None = None

    # -- running ----------------------------------------------------------------------------------------------------

    def run(
        self, on_step: Callable[[Report], None] = lambda r: None, validate: Callable[[int], None] | None = None
    ) -> Engine:
        """Train to `steps`. SIGINT and SIGTERM finish the step, save and return with `stopped_by` set."""
        self._trim_metrics()
        with self._signals():
            while self.step < self.steps and not self.stopped_by:
                begun = time.perf_counter()
                values = self._advance()
                self.step += 1
                if self.accelerator.is_main_process:
                    self._log(values)
                on_step(Report(self.step, self.steps, values, time.perf_counter() - begun))
                due = self.cadence.checkpoint and self.step % self.cadence.checkpoint == 0
                if due or self.step == self.steps or self.stopped_by:
                    self.save(wait=self.step == self.steps or bool(self.stopped_by))
                if validate and self.cadence.validate and self.step % self.cadence.validate == 0:
                    validate(self.step)
        self._finish_write()
        return self

    def stop(self, reason: str) -> None:
        """End the run after this step, saved; `stopped_by` tells why."""
        self.stopped_by = self.stopped_by or reason

    def _advance(self) -> dict[str, float]:
        world, rank, count = self.accelerator.num_processes, self.accelerator.process_index, self.cadence.micro
        numbers = [m * world + rank for m in range(count)]
        batches = [self.source(self.step, m).to(self.accelerator.device) for m in numbers]
        values: dict[str, float] = {}
        for learner in self.method.turn(self.step):
            values |= self._update(learner, numbers, batches)
        return values

    def _update(self, learner: str, numbers: list[int], batches: list[Batch]) -> dict[str, float]:
        for name, module in self.method.learners.items():
            module.requires_grad_(name == learner)
        optim = self.optim[learner]
        optim.zero()
        parts: dict[str, Tensor] = {}
        for number, batch in zip(numbers, batches, strict=True):
            rng = Rng(self.seed, self.step, number, turn=learner)
            with self.accelerator.autocast():
                loss = self.method.loss(learner, batch, rng)
            (loss.total / len(batches)).backward()  # type: ignore[no-untyped-call]
            for key, value in _named(learner, loss).items():
                parts[key] = parts.get(key, torch.zeros((), device=value.device)) + value / len(batches)
        self._average_gradients(optim.params)
        norm = torch.nn.utils.clip_grad_norm_(optim.params, optim.spec.clip)
        values = self._mean_over_ranks(parts) | {f"{learner}/grad": float(norm)}
        if not torch.isfinite(norm):
            return values | {f"{learner}/skipped": float(self._count_bad(learner, batches))}
        self.bad = 0
        rate = optim.spec.rate(self.step, self.steps)
        optim.step(rate)
        if learner in self.ema:
            self.ema[learner].update(optim.params)
        return values | {f"{learner}/lr": rate}

    def _average_gradients(self, params: list[nn.Parameter]) -> None:
        if self.accelerator.num_processes == 1:
            return
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in params]
        flat = torch.cat([g.flatten() for g in grads])
        flat = self.accelerator.reduce(flat, reduction="mean")
        for p, part in zip(params, flat.split([p.numel() for p in params]), strict=True):
            p.grad = part.view_as(p)

    def _mean_over_ranks(self, parts: dict[str, Tensor]) -> dict[str, float]:
        if not parts:
            return {}
        stacked = torch.stack([v.to(torch.float32) for v in parts.values()])
        if self.accelerator.num_processes > 1:
            stacked = self.accelerator.reduce(stacked, reduction="mean")
        return dict(zip(parts, stacked.tolist(), strict=True))

    def _count_bad(self, learner: str, batches: list[Batch]) -> int:
        self.bad += 1
        self.skipped += 1
        if self.bad >= self.cadence.max_bad:
            keys = [k for b in batches for k in b.keys]
            raise NonFinite(
                f"gradient not finite {self.bad} times in a row; weights unchanged by them; last samples: {keys[:16]}",
                f"{learner} at step {self.step}",
                "lower the learning rate or look at those samples",
            )
        return self.bad

    # -- what is kept -----------------------------------------------------------------------------------------------

    def snapshot(self) -> checkpoint.Snapshot:
        """Everything that resuming needs, still on the device. All processes ask together."""
        groups: dict[str, Mapping[str, Tensor]] = {CARRIED: found} if (found := self._carried()) else {}
        state: dict[str, Any] = {"optim": {}, "ema": {}, "bad": self.bad, "seed": self.seed}
        for name, module in self.method.learners.items():
            groups[name] = module.state_dict()
            groups[f"{name}.optim"], state["optim"][name] = self.optim[name].state()
            if name in self.ema:
                groups[f"{name}.ema"], state["ema"][name] = self.ema[name].state(), self.ema[name].updates
        return checkpoint.Snapshot(self.step, groups, state)

    def _carried(self) -> dict[str, Tensor]:
        """What the method carries, in this process and all others."""
        carried: Carried | None = getattr(self.method, "carried", None)
        own = {} if carried is None else dict(carried.state())
        if carried is None or carried.alike:
            return own
        return {k: v for part in gather_object([{k: v.cpu() for k, v in own.items()}]) for k, v in part.items()}

    def save(self, wait: bool = False) -> None:
        """Snapshot now, write in the background; an error of the previous write surfaces here."""
        self._finish_write()
        shot = self.snapshot()
        if self.accelerator.is_main_process:
            shot = shot.to_host()
            self._writer = self._writer or ThreadPoolExecutor(1)
            self._writing = self._writer.submit(checkpoint.save, self.out / "checkpoints", shot, self.cadence.keep)
            if wait:
                self._finish_write()
        if wait:
            self.accelerator.wait_for_everyone()

    def _finish_write(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def resume(self) -> list[str]:
        """Continue from the newest whole checkpoint, if any; returns what was skipped and why."""
        root = self.out / "checkpoints"
        if self.accelerator.is_main_process:
            checkpoint.sweep(root)
        path, skipped = checkpoint.latest(root)
        if path is not None:
            self._restore(checkpoint.load(path), path)
        return skipped

    def _restore(self, shot: checkpoint.Snapshot, path: Path) -> None:
        if shot.state["seed"] != self.seed:
            raise UserError(f"was trained with seed {shot.state['seed']}, config says {self.seed}", str(path))
        for name, module in self.method.learners.items():
            if name not in shot.groups:
                raise UserError(f"holds no {name!r}; this run's method is another one", str(path), "use another --out")
            checkpoint.fill(module, shot.groups[name], f"{path}/{name}.safetensors")
            self.optim[name].load(dict(shot.groups[f"{name}.optim"]), shot.state["optim"][name])
            if name in self.ema:
                self.ema[name].load(dict(shot.groups[f"{name}.ema"]), shot.state["ema"][name])
        if (carried := getattr(self.method, "carried", None)) is not None:
            here = self.accelerator
            carried.restore(shot.groups.get(CARRIED, {}), here.process_index, here.num_processes)
        self.step, self.bad = shot.step, shot.state["bad"]

    @contextmanager
    def averaged(self, learner: str = "student") -> Iterator[None]:
        """The learner with its averaged weights while inside, where they are averaged."""
        ema, module = self.ema.get(learner), self.method.learners[learner]
        if ema is not None:
            ema.swap(module)
        try:
            yield
        finally:
            if ema is not None:
                ema.swap(module)

    # -- the log ----------------------------------------------------------------------------------------------------

    def _log(self, values: Mapping[str, float]) -> None:
        append_line(self.out / "metrics.jsonl", {"step": self.step, **values})

    def _trim_metrics(self) -> None:
        """Drop lines past the step we continue from, and a half-written last one."""
        path = self.out / "metrics.jsonl"
        if not self.accelerator.is_main_process:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        if path.exists():
            lines = path.read_text(errors="replace").splitlines(keepends=True)
            kept = [line for line in lines if _step_of(line) <= self.step]
            path.write_text("".join(kept))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def note(number: int, where: Any) -> None:
            self.stop(signal.Signals(number).name)

        try:
            old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: the caller handles signals
            old = {}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """One JSON line more; an OSError says of which file, which Python leaves out when a buffer cannot be flushed."""
    try:
        with path.open("a") as handle:
            handle.write(json.dumps(row) + "\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _named(learner: str, loss: Loss) -> dict[str, Tensor]:
    parts = {f"{learner}/loss": loss.total.detach()}
    return parts | {f"{learner}/{k}": v.detach() for k, v in loss.parts.items()}


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
