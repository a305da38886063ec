"""The model card beside exported weights: what it is, how it was made, and a snippet that runs as it stands."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from ..avatar.adapters import SIZES as ADAPTERS
from ..families.opening import INDEX, call_defaults
from .about import About
from .convert import CAUSAL_FILE, CAUSAL_NOTE
from .models import model_folder

SNIPPET = """\
import torch{imports}
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{folder}"){after}
{made} = pipe(
    {call}
    generator=torch.Generator().manual_seed(0),
    output_type="pt",
).{result}
print(tuple({made}.shape))
"""
CAPTIONS = "Captions are at most {length} tokens: pass `max_sequence_length={length}`."
FEW = (
    "The scheduler in this folder carries the trained times and ignores `num_inference_steps`; it needs "
    "the package `vdistill` to be installed and imported."
)
LORA_AFTER = """
pipe.load_lora_weights("{lora}")
pipe.scheduler = FewStepScheduler.from_pretrained("{lora}", subfolder="scheduler")"""
FIRST = """
first_image = load_image("first.png")"""
IMPORTS = """
import vdistill.families.tiny  # lets diffusers load the codec and the scheduler of this folder"""
FIRST_IMPORTS = """
from diffusers.utils import load_image"""
LORA_IMPORTS = """
from vdistill.families.few_step import FewStepScheduler"""


def snippet(folder: Path, about: About, kind: str, length: int | None, steps: int, base: str | None = None) -> str:
    """Python that samples an exported folder. kind: the pipeline's class; base: the pipeline a LoRA goes on."""
    takes = call_defaults(kind)
    said = {
        "image": "first_image", "prompt": '"a red square moves left"', "class_labels": "[1]",
        "height": about.height, "width": about.width, "num_frames": about.frames,
        "frame_rate": about.frame_rate or None,
        "num_inference_steps": steps, "guidance_scale": about.guidance, "max_sequence_length": length,
    }  # fmt: skip
    lines = [f"{name}={value}," for name, value in said.items() if name in takes and value is not None]
    frames = "num_frames" in takes
    return SNIPPET.format(
        folder=base or folder,
        imports=IMPORTS + LORA_IMPORTS * (base is not None) + FIRST_IMPORTS * ("image" in takes),
        after=(LORA_AFTER.format(lora=folder) if base else "") + FIRST * ("image" in takes),
        call="\n    ".join(lines),
        made="clip" if frames else "image",
        result="frames[0]  # [T, 3, H, W] in [0, 1]" if frames else "images[0]  # [3, H, W] in [0, 1]",
    )


def write_card(out: Path, run: Path, about: About, lora: bool) -> None:
    """README.md of an export; `run` is what the user named, a run folder or a model folder."""
    source = model_folder(run)
    scheduler = json.loads((source / "scheduler" / "scheduler_config.json").read_text())
    index = json.loads((source / INDEX).read_text())
    length = caption_length(source, index["_class_name"])
    times = scheduler.get("times")
    final = out.with_name(out.name.removeprefix(".").removesuffix(".tmp"))
    own = source == model_folder("shapes") or _made_here(run)
    config, base, stock = run / "config.yaml", None, index["_class_name"]
    made = yaml.safe_load(config.read_text()) if config.is_file() else {}
    if lora:
        path = made["family"].get("path")
        base = str(model_folder(path)) if path else f"the base, {made['family'].get('random_tiny')}"
    steps = len(times) if times else about.steps
    world = "talker" if (source / ADAPTERS).is_file() else "shapes"
    kind = f"few-step student ({len(times)} passes at t = {times})" if times else f"teacher ({about.steps} steps)"
    shown = "image" if about.frames == 1 else "video"
    lines = [
        "---", "library_name: diffusers", *["license: apache-2.0"] * own, f"pipeline_tag: text-to-{shown}", "---",
        f"# {made.get('name', final.name)}", "",
        f"A {kind}, {'a LoRA adapter for the base below' if lora else f'a stock {stock}'}, made with vdistill.", "",
        *_usage(source, final, snippet(final, about, stock, length, steps, base)), "",
        *([CAUSAL_NOTE, ""] if (source / CAUSAL_FILE).is_file() else []),
        " ".join([FEW] * bool(times) + [CAPTIONS.format(length=length)] * (length is not None)), "",
        *_training(made, run),
        *["The license is that of the base model."] * (not own),
        f"Verified: on the {world} world only. Not verified: anything else.", "",
    ]  # fmt: skip
    (out / "README.md").write_text("\n".join(lines))


def _usage(source: Path, final: Path, code: str) -> list[str]:
    """How it is run: by the stock pipeline, or, where that would not hear, by `vdistill talk`."""
    if not (source / ADAPTERS).is_file():
        return ["```python", code.rstrip(), "```"]
    return [
        "```bash", f"vdistill talk {final} --image face.png --audio speech.wav --out talk.mp4", "```", "",
        "The stock pipeline opens the folder too, and neither hears nor looks at a reference.",
    ]  # fmt: skip


def _made_here(run: Path) -> bool:
    """Whether no published weights went in."""
    config = run / "config.yaml"
    family = yaml.safe_load(config.read_text())["family"] if config.is_file() else {}
    return family.get("name") == "tiny" and family.get("path") in (None, "shapes")


def caption_length(source: Path, stock: str) -> int | None:
    """Tokens of a caption, where the pipeline is told: what its tokenizer says, at most the pipeline's default."""
    most = call_defaults(stock).get("max_sequence_length")
    config = source / "tokenizer" / "tokenizer_config.json"
    if most is None or not config.is_file():
        return None
    return min(int(most), int(json.loads(config.read_text()).get("model_max_length", most)))


def _training(made: dict[str, dict[str, object]], run: Path) -> list[str]:
    metrics = run / "metrics.jsonl"
    if not made or not metrics.is_file():
        return []
    last = json.loads(metrics.read_text().splitlines()[-1])
    losses = ", ".join(f"{k.removesuffix('/loss')} {v:.4g}" for k, v in last.items() if k.endswith("/loss"))
    shown = {key: made[key] for key in ("method", "scope", "optim", "train") if key in made}
    method = yaml.safe_dump(shown, sort_keys=False)
    return [
        "## Training", "", f"Base: `{made['family'].get('path') or 'none, trained from nothing'}`. "
        f"{last['step']} steps; last losses: {losses}.", "", "```yaml", method.rstrip(), "```", "",
    ]  # fmt: skip
