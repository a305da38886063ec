"""`vdistill train CONFIG --out RUN`: train or distil, resume, validate, and leave a model folder in RUN/student."""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env
from safetensors import SafetensorError
from safetensors.torch import save_file
from tqdm import tqdm

from ..avatar.adapters import SIZES as ADAPTERS
from ..core.checkpoint import io_error
from ..core.engine import Engine, Report, append_line
from ..core.errors import UserError
from ..core.guided import INPUT
from ..core.precision import usable
from ..core.scope import AdapterRole
from ..discriminators.news import News
from ..families.stock import StockFamily
from . import config as configs
from .about import About
from .build import Built, build, engine_of, takes_scale
from .catalog import install_hint
from .causal_file import saved
from .export import LORA_FILE, adapter_tensors
from .judge_file import write_judges
from .lock import LOCK, as_folder, sole_writer
from .models import STUDENT, check_data, clip_of
from .schema import Config
from .schema_causal import MethodForcing
from .schema_method import MethodFlow, MethodGuidance
from .schema_scales import MethodMixed
from .validate import validator

CONFIG, SPEED = "config.yaml", "speed.jsonl"
SIGNALS = ("SIGINT", "SIGTERM")
OWN = (CONFIG, SPEED, "metrics.jsonl", "checkpoints", "validation", STUDENT, f".{STUDENT}.tmp")  # what a run writes


def run(args: argparse.Namespace) -> int:
    """0 when finished, 130 after Ctrl-C, 0 after SIGTERM (both saved). UserError for what the user can mend."""
    config, out = configs.load(args.config, args.set or ()), Path(args.out)
    engine = train(config, out, fresh=args.fresh)
    if engine.stopped_by in SIGNALS:
        say(f"{engine.stopped_by}: step {engine.step} of {engine.steps} is saved; the same command goes on from there")
        return 130 if engine.stopped_by == "SIGINT" else 0
    if engine.skipped:
        say(f"{engine.skipped} updates were not finite and changed nothing; metrics.jsonl has them as skipped")
    say(f"done: {out / 'student'}\nnext: {then(out)}")
    return 0


def train(
    config: Config,
    out: Path,
    *,
    fresh: bool = False,
    watch: Callable[[Engine, Report], None] = lambda engine, report: None,
) -> Engine:
    """Run a config in a folder, from its newest checkpoint if there is one.

    watch: told of every step; it may end the run by `engine.stop(reason)`. A run that ends so is finished all the same.
    """
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")  # a slower kernel, no error
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    for tracker in config.report_to:
        if find_spec(tracker) is None:
            raise UserError(f"{tracker} is not installed", "report_to", install_hint(tracker))
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    precision = usable(config.train.precision, "cpu") if on_cpu else config.train.precision
    accelerator = Accelerator(mixed_precision=precision, log_with=list(config.report_to) or None, project_dir=str(out))
    if precision != config.train.precision and accelerator.is_main_process:
        say("train.precision: this CPU emulates bf16, so training is in float32, which is faster here")
    with ExitStack() as held:
        if accelerator.is_main_process:
            as_folder(out)
            if (out / "model_index.json").exists():
                raise UserError("is a model folder, not a place for a run", str(out), "use another --out")
            held.enter_context(sole_writer(out))
            claim(out, config, fresh)
        accelerator.wait_for_everyone()
        return sitting(config, out, accelerator, watch)


def sitting(config: Config, out: Path, accelerator: Accelerator, watch: Callable[[Engine, Report], None]) -> Engine:
    """From the newest checkpoint, if any, to the last step or a signal, in a folder that is this run's."""
    built = build(config, accelerator.num_processes, accelerator.device)
    check_data(built, config)
    engine = engine_of(config, built, out, accelerator=accelerator)
    for line in engine.resume():
        say(f"skipped a damaged checkpoint, {line}")
    if config.report_to:
        accelerator.init_trackers(config.name)
    check = validator(config, built, engine) if config.validation.every else None
    news = News()
    with progress(engine, config) as note:

        def on_step(report: Report) -> None:
            note(report)
            for line in news(report.values) if accelerator.is_main_process else ():
                say(f"step {report.step}: {line}")
            watch(engine, report)

        engine.run(on_step, check)
    if config.report_to:
        accelerator.end_training()
    if engine.stopped_by not in SIGNALS and accelerator.is_main_process:
        finish(config, built, engine, out / STUDENT)
    return engine


def claim(out: Path, config: Config, fresh: bool) -> None:
    """Make the folder this run's own. UserError when it holds a run of another config."""
    path, text = out / CONFIG, configs.dump(config)
    as_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    if fresh:
        if any(p.name != LOCK for p in out.iterdir()) and not path.exists():
            raise UserError("is not a run folder, so --fresh does not empty it", str(out), "use another --out")
        for own in OWN:
            remove(out / own)
    begun = (out / STUDENT).exists() or any((out / "checkpoints").glob("step-*"))  # else there is nothing to lose
    if begun and path.exists() and comparable(path.read_text(errors="replace")) != comparable(text):
        raise UserError(
            "holds a run of another config", str(out), "use another --out, or --fresh to throw that run away"
        )
    path.write_text(text)


def remove(path: Path) -> None:
    """A file or a folder, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def comparable(text: str) -> list[str]:
    """A config without what may change between two sittings of one run: its length, cadence, threads and trackers."""
    free = ("steps:", "checkpoint_every:", "keep:", "threads:", "every:", "report_to:", "max_bad:")
    return [line for line in text.splitlines() if not line.strip().startswith(free)]


def finish(config: Config, built: Built, engine: Engine, folder: Path) -> None:
    """Write the trained model, averaged where it was averaged, and put it in place in one rename."""
    scratch = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with engine.averaged():
            built.family.save(built.plain_student(), scratch, built.times)
            if isinstance(built.student, AdapterRole):
                save_file(adapter_tensors(built), scratch / LORA_FILE)
        write_judges(getattr(config.method, "judge", None), built.method.learners, scratch)
        about_student(config, built).write(scratch)
        if config.causal:
            saved(config.causal, built.times).write(scratch)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise (io_error(error, folder) if isinstance(error, SafetensorError) else error) from error
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)


def then(run: Path) -> str:
    """What to type after a run is done."""
    if (run / STUDENT / ADAPTERS).is_file():
        return f"vdistill talk {run} --image face.png --audio speech.wav --out {run / 'talk.mp4'}"
    return f"vdistill sample {run} --prompt '...' --out {run / 'samples'}"


def about_student(config: Config, built: Built) -> About:
    """What the model folder says of itself: the clip it was trained on, and how it is sampled."""
    v, m, clip = config.validation, config.method, clip_of(built, config)
    rate = getattr(config.family, "frame_rate", None) or About.frame_rate
    any_number = isinstance(m, MethodFlow | MethodForcing | MethodGuidance | MethodMixed)
    many = any_number and "steps" not in v.model_fields_set
    steps = About.steps if many else v.steps  # the default of validation is a few-step student's
    family = built.family
    told = family.defaults()["guidance"] if isinstance(family, StockFamily) and family.guided_by == INPUT else None
    if isinstance(m, MethodGuidance):  # a scale that was no input is in the weights, and is not applied again
        scale = (m.scale_low + m.scale_high) / 2 if told is not None or takes_scale(m) else 1.0
        return About(*clip, steps, scale, m.name, frame_rate=rate)
    if told is not None:  # what it was told in training
        return About(*clip, steps, told, m.name, frame_rate=rate)
    begin = m.begin if isinstance(m, MethodFlow | MethodMixed) else None
    begins, level = (begin.most, begin.level) if begin is not None else (0, 0.0)
    scales = v.scales or {} if built.times is None else {}  # a few-step student has them in its weights or tokens
    return About(*clip, steps, v.guidance, m.name, frame_rate=rate, scales=scales, begins=begins, begin_level=level)


@contextmanager
def progress(engine: Engine, config: Config) -> Iterator[Callable[[Report], None]]:
    """A bar with loss, speed and memory; the same, in numbers, to speed.jsonl and the trackers."""
    main = engine.accelerator.is_main_process
    bar = tqdm(total=engine.steps, initial=engine.step, desc=config.name, unit="step", disable=None if main else True)
    samples = config.train.batch * config.train.micro * engine.accelerator.num_processes

    def note(report: Report) -> None:
        memory = peak_gib(engine.accelerator.device)
        losses = {k.removesuffix("/loss"): f"{v:.4g}" for k, v in report.values.items() if k.endswith("/loss")}
        bar.set_postfix(losses | {"GiB": f"{memory:.1f}"}, refresh=False)
        bar.update()
        if main:
            speed = {"step": report.step, "seconds": round(report.seconds, 4), "peak_gib": round(memory, 3),
                     "samples_per_s": round(samples / report.seconds, 2)}  # fmt: skip
            append_line(engine.out / SPEED, speed)
            if config.report_to:
                engine.accelerator.log(dict(report.values), step=report.step)

    try:
        yield note
    finally:
        bar.close()


def peak_gib(device: torch.device) -> float:
    """Peak memory of this process so far: of the GPU where there is one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def say(text: str) -> None:
    """To the user, on stderr, so that stdout stays for results."""
    print(text, file=sys.stderr)
