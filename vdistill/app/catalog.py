"""The one table of names: what a config or the command line may call things -> where they live ("module:attribute").

Nothing is imported until `find` is asked; a newcomer adds one line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

FAMILIES = {
    "tiny": "vdistill.families.tiny:TinyFamily",
    "wan": "vdistill.families.wan:WanFamily",
    "cogvideox": "vdistill.families.cogvideox:CogVideoXFamily",
    "ltx": "vdistill.families.ltx:LtxFamily",
    "hunyuan": "vdistill.families.hunyuan:HunyuanFamily",
    "hunyuan15": "vdistill.families.hunyuan15:Hunyuan15Family",
    "sd": "vdistill.families.sd:SdFamily",
    "sdxl": "vdistill.families.sd:SdxlFamily",
    "animatediff": "vdistill.families.animatediff:AnimateDiffFamily",
    "sd3": "vdistill.families.sd3:Sd3Family",
    "flux": "vdistill.families.flux:FluxFamily",
    "pixart": "vdistill.families.pixart:PixArtFamily",
    "dit": "vdistill.families.dit:DitFamily",
    "analytic": "vdistill.families.analytic:Exact",
}
PIPELINES = {
    "WanPipeline": "wan",
    "WanImageToVideoPipeline": "wan",
    "CogVideoXPipeline": "cogvideox",
    "CogVideoXImageToVideoPipeline": "cogvideox",
    "LTXPipeline": "ltx",
    "LTXImageToVideoPipeline": "ltx",
    "HunyuanVideoPipeline": "hunyuan",
    "HunyuanVideo15Pipeline": "hunyuan15",
    "StableDiffusionPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
    "AnimateDiffPipeline": "animatediff",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
    "PixArtAlphaPipeline": "pixart",
    "PixArtSigmaPipeline": "pixart",
    "DiTPipeline": "dit",
}
"""Pipeline class, as model_index.json names it -> the family that opens it."""
TARGETS = {
    "gaussian": "vdistill.families.analytic:gaussian",
    "mixture": "vdistill.families.analytic_mixture:mixture",
    "ar1": "vdistill.families.analytic:ar1",
    "classes": "vdistill.families.analytic:Classes",
}
METHODS = {
    "flow": "vdistill.methods.flow:Flow",
    "forcing": "vdistill.causal.forcing:Forcing",
    "ode_init": "vdistill.causal.ode_init:OdeInit",
    "causal_consistency": "vdistill.causal.consistency:CausalConsistency",
    "guidance": "vdistill.methods.guidance:GuidanceDistillation",
    "mixed": "vdistill.methods.mixed:MixedDistillation",
    "lcm": "vdistill.methods.lcm:Lcm",
    "dmd2": "vdistill.methods.dmd2:Dmd2",
    "adversarial": "vdistill.methods.adversarial:AdversarialDistillation",
    "progressive": "vdistill.methods.progressive:Progressive",
    "regression": "vdistill.methods.towards:Towards",
    "judged_consistency": "vdistill.methods.seen_consistency:SeenConsistency",
    "add": "vdistill.methods.distilled_score:DistilledScore",
    "frame_matching": "vdistill.methods.frame_matching:FrameMatching",
}
DATA = {
    "shapes": "vdistill.worlds.source:ShapesSource",
    "talker": "vdistill.app.talker_source:TalkerSource",
    "talking": "vdistill.data.talking:TalkingData",
    "latents": "vdistill.data.latents:LatentData",
    "prompts": "vdistill.data.prompts:PromptData",
    "media": "vdistill.data.on_the_fly:MediaData",
    "mix": "vdistill.data.mix:Mixed",
    "bank": "vdistill.data.bank:BankData",
    "analytic": "vdistill.families.analytic:Exact",
}
SCOPES = {"full": "vdistill.core.scope:full_roles", "lora": "vdistill.core.scope:lora_roles"}
GUIDANCES = {
    "cfg": "vdistill.core.guidance:cfg",
    "chain": "vdistill.core.guidance:chain",
    "star": "vdistill.core.guidance:star",
    "joint": "vdistill.core.guidance:joint",
}
SOLVERS = ("own", "ddim", "euler", "heun", "dpmpp_2m", "ancestral")
SCHEDULES = ("rf", "vp", "trig", "edm")

COMMANDS = {
    "demo": ("vdistill.app.demo", "distil the shipped teacher on this machine and write a report to look at"),
    "prepare": ("vdistill.app.prepare", "turn your own videos, images or prompts into training data"),
    "bank": ("vdistill.app.bank", "write a teacher's trajectories to disk, for training that needs no teacher passes"),
    "train": ("vdistill.app.train", "train a teacher or distil a student, as a config says"),
    "check": ("vdistill.app.check", "say everything that is wrong with a config"),
    "plan": ("vdistill.app.plan", "say what a config needs: parameters, memory by role, work, hours on a named GPU"),
    "sample": ("vdistill.app.sample", "make clips from captions with any model"),
    "stream": ("vdistill.app.stream", "video without end from a causal student, with prompts that change on the way"),
    "talk": ("vdistill.app.talk", "a face that says what a sound says, as long as the sound lasts"),
    "eval": ("vdistill.app.evaluate", "measure a model on held-out captions"),
    "export": ("vdistill.app.export", "write a trained student as a diffusers pipeline or a LoRA file"),
    "convert": ("vdistill.app.convert", "turn a public few-step or causal Wan checkpoint into a diffusers pipeline"),
    "doctor": ("vdistill.app.doctor", "show versions, devices, and what is missing for what"),
}
"""command -> (module with run(args) -> exit code, what it does)."""

EXTRAS = {
    "decord": ("media", "a second video decoder"),
    "librosa": ("audio", "speech features"),
    "soundfile": ("audio", "reading audio files"),
    "fastapi": ("serve", "the streaming server"),
    "uvicorn": ("serve", "the streaming server"),
    "xformers": ("cuda", "memory-efficient attention on NVIDIA"),
    "flash_attn": ("cuda", "flash attention on NVIDIA"),
    "tensorboard": ("track", "report_to: [tensorboard]"),
    "wandb": ("track", "report_to: [wandb]"),
    "pytest": ("dev", "the tests"),
}
"""optional package -> (pip extra that brings it, what it is for)."""


def find(table: Mapping[str, str], name: str) -> Any:
    """The object a name of one of the tables stands for; KeyError for a name that is not in it."""
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)


def install_hint(package: str) -> str:
    """How to get an optional package."""
    return f"pip install 'vdistill[{EXTRAS[package][0]}]'" if package in EXTRAS else f"pip install {package}"
