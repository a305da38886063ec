"""Configs whose plans are tested: tiny twins that can also be run, and teachers of real widths that cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vdistill.app.plan import opened
from vdistill.app.plan_memory import Simulated
from vdistill.app.plan_step import simulate
from vdistill.app.schema import Config
from vdistill.families.published import PUBLISHED
from vdistill.families.random_tiny import TINY_CALLS

FAMILY = {"wan": "wan", "cogvideox-5b": "cogvideox", "sd15": "sd", "hunyuan": "hunyuan", "flux": "flux"}
DMD2 = {"name": "dmd2", "critic_per_student": 1, "guidance": {"scale": 3.0}}


def tiny(out: Path, variant: str = "wan", scope: str = "lora", twice: bool = False, **more: Any) -> Config:
    """A run of a tiny twin; more: sections or keys of train."""
    call = TINY_CALLS[variant]
    (out / "prompts.txt").write_text("a red cat\na dog\n")
    size = {"frames": call.frames or 1, "height": call.height, "width": call.width}
    train = {"steps": 10, "batch": 2, "gradient_checkpointing": twice}
    train |= {k: more.pop(k) for k in list(more) if k in ("batch", "micro", "precision", "guidance_batch")}
    given = {
        "name": "twin", "family": {"name": FAMILY[variant], "random_tiny": variant, "long_text": "cut", **size},
        "data": {"name": "prompts", "path": str(out / "prompts.txt")}, "method": DMD2, "scope": {"name": scope},
        "train": train,
    }  # fmt: skip
    return Config.model_validate(given | more)


def large(shape: str, clip: tuple[int, int, int], **more: Any) -> Config:
    """A run of a published teacher whose folder is not there; clip: frames, height, width."""
    size = dict(zip(("frames", "height", "width"), clip, strict=True))
    given = {
        "name": "large", "family": {"name": PUBLISHED[shape].family, "path": "gone", "dtype": "bfloat16", **size},
        "data": {"name": "latents", "path": "gone"}, "method": {"name": "flow"}, "scope": {"name": "lora"},
        "train": {"steps": 100, "batch": 1, "precision": "bf16", "gradient_checkpointing": True},
    }  # fmt: skip
    return Config.model_validate(given | more)


def shallow(monkeypatch: pytest.MonkeyPatch, layers: int) -> None:
    """Wan of its real widths, of few blocks."""
    for name in ("wan2.1-1.3b", "wan2.1-14b"):
        p = PUBLISHED[name]
        transformer = {**p.networks["transformer"], "num_layers": layers}
        monkeypatch.setitem(PUBLISHED, name, replace(p, networks={"transformer": transformer}))


def planned(config: Config, **how: Any) -> Simulated:
    """A step of a tiny twin as it goes on this machine, which has no GPU."""
    return simulate(config, opened(config), **{"gpu": False, **how})


def written(folder: Path, config: Config) -> str:
    """The config as a file."""
    file = folder / "config.yaml"
    file.write_text(config.model_dump_json())
    return str(file)
