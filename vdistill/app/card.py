"""The model card beside exported weights: what it is, how it was made, and a snippet that runs as it stands."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from .about import About
from .models import model_folder

SNIPPET = """\
import torch
import vdistill.families.tiny  # lets diffusers load the codec and the scheduler of this folder
from diffusers import DiffusionPipeline{imports}

pipe = DiffusionPipeline.from_pretrained("{folder}"){after}
clip = pipe(
    "a red square moves left",
    height={height}, width={width}, num_frames={frames},
    num_inference_steps={steps}, guidance_scale={guidance},
    max_sequence_length={length},  # what it was trained with; the default of the pipeline is another
    generator=torch.Generator().manual_seed(0),
    output_type="pt",
).frames[0]  # [T, 3, H, W] in [0, 1]
print(tuple(clip.shape))
"""
CAPTIONS = "Captions are at most {length} tokens: pass `max_sequence_length={length}`."
FEW = (
    "The scheduler in this folder carries the trained times and ignores `num_inference_steps`; it and the codec need "
    "the package `vdistill` to be installed and imported. " + CAPTIONS
)
LORA_AFTER = """
pipe.load_lora_weights("{lora}")
pipe.scheduler = FewStepScheduler.from_pretrained("{lora}", subfolder="scheduler")"""


def snippet(folder: Path, about: About, length: int, steps: int, base: Path | None = None) -> str:
    """Python that samples an exported folder; base: the pipeline a LoRA goes on."""
    return SNIPPET.format(
        folder=base or folder,
        imports="\nfrom vdistill.families.few_step import FewStepScheduler" if base else "",
        after=LORA_AFTER.format(lora=folder) if base else "",
        height=about.height, width=about.width, frames=about.frames, steps=steps,
        guidance=about.guidance, length=length,
    )  # fmt: skip


def write_card(out: Path, run: Path, about: About, lora: bool) -> None:
    """README.md of an export; `run` is what the user named, a run folder or a model folder."""
    source = model_folder(run)
    scheduler = json.loads((source / "scheduler" / "scheduler_config.json").read_text())
    length = json.loads((source / "tokenizer" / "tokenizer_config.json").read_text())["model_max_length"]
    times = scheduler.get("times")
    final = out.with_name(out.name.removeprefix(".").removesuffix(".tmp"))
    config, base = run / "config.yaml", None
    made = yaml.safe_load(config.read_text()) if config.is_file() else {}
    if lora:
        base = model_folder(made["family"]["path"])
    steps = len(times) if times else about.steps
    kind = f"few-step student ({len(times)} passes at t = {times})" if times else f"teacher ({about.steps} steps)"
    lines = [
        "---", "library_name: diffusers", "license: apache-2.0", "pipeline_tag: text-to-video", "---",
        f"# {made.get('name', final.name)}", "",
        f"A {kind}, {'a LoRA adapter for the base below' if lora else 'stock Wan'}, made with vdistill.", "",
        "```python", snippet(final, about, length, steps, base).rstrip(), "```", "",
        FEW.format(length=length) if times else CAPTIONS.format(length=length), "",
        *_training(made, run),
        "Verified: on the shapes world only. Not verified: anything else.", "",
    ]  # fmt: skip
    (out / "README.md").write_text("\n".join(lines))


def _training(made: dict[str, dict[str, object]], run: Path) -> list[str]:
    metrics = run / "metrics.jsonl"
    if not made or not metrics.is_file():
        return []
    last = json.loads(metrics.read_text().splitlines()[-1])
    losses = ", ".join(f"{k.removesuffix('/loss')} {v:.4g}" for k, v in last.items() if k.endswith("/loss"))
    shown = {key: made[key] for key in ("method", "scope", "optim", "train") if key in made}
    method = yaml.safe_dump(shown, sort_keys=False)
    return [
        "## Training", "", f"Base: `{made['family'].get('path', 'none, trained from nothing')}`. "
        f"{last['step']} steps; last losses: {losses}.", "", "```yaml", method.rstrip(), "```", "",
    ]  # fmt: skip
