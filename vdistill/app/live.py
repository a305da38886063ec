"""A stream as pixels: opened from what the command line or the library says, told prompts, saved and resumed."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import interpolate

from ..causal.stream import Stream, Switch
from ..core.checkpoint import io_error
from ..core.errors import UserError
from ..data.media import read_video
from ..families.stock import StockFamily
from ..families.wan_presets import PRESETS
from .build_avatar import adapters_of
from .causal_file import Saved, of_json
from .generate import size_of
from .models import about_model, device_of, model_folder, open_model, whole_number
from .sample import first_image
from .streaming import causal_of, held_back, stream_of

DIFFERS = {"weights": "another model", "plan": "other blocks, times or window"}
"""What a snapshot is of, where it is not of this stream."""


@dataclass
class Live:
    """A stream of one clip as pixels: an iterator over chunks [1, 3, T, H, W] in [-1, 1].

    edited: a clip [1, 3, T, H, W] to paint over, block by block, from noise `strength`.
    """

    family: StockFamily
    stream: Stream
    size: tuple[int, int]
    prompt: str
    how: Switch = "recache"
    shown: Tensor | None = None
    edited: Tensor | None = None
    strength: float = 0.8
    decode: Callable[[Tensor], Tensor] = field(init=False)
    waiting: Tensor | None = None
    """Frames that are made and have not been given out: of a chunk that was cut off, of a scene that ended."""

    def __post_init__(self) -> None:
        self.decode = self.family.codec.stream()

    def __iter__(self) -> Live:
        return self

    def __next__(self) -> Tensor:
        pixels, self.waiting = self.waiting, None
        while pixels is None or not pixels.shape[2]:  # some decoders hold frames back
            pixels = self.decode(self._block()).cpu()
        return pixels

    def _block(self) -> Tensor:
        """The next latents: shown, painted over, or made."""
        count = self.stream.next_count * self.stream.plan.unit
        if self.shown is not None:
            block, self.shown = self.shown[:, :, :count], None
            self.stream.show(block)
            return block
        if self.edited is not None and self.edited.shape[2] >= count:
            block, self.edited = self.edited[:, :, :count], self.edited[:, :, count:]
            return self.stream.edit(block, self.strength)
        return next(self.stream)

    def finish(self) -> Tensor | None:
        """The frames that the decoder still holds back, if any."""
        return held_back(self.decode)

    def say(self, prompt: str, how: Switch | None = None, blocks: int = 4) -> None:
        """Another prompt from the next chunk on. UserError for one the text encoder does not take."""
        how = how or self.how
        self.stream.switch(self.family.text([prompt]).to(self.family.device), how, blocks)
        self.prompt = prompt
        if how == "cut":
            self.waiting = self.finish()
            self.decode = self.family.codec.stream()

    def identity(self) -> dict[str, str]:
        """What a stream must have in common with a snapshot to go on from it."""
        plan = self.stream.plan
        return {
            "dtype": str(self.family.network_of().dtype),
            "weights": fingerprint(self.family),
            "plan": json.dumps([asdict(plan.layout), plan.times, plan.first, plan.level, plan.unit]),
        }

    def keep(self, path: str | Path) -> None:
        """Save the stream as it is, for --resume: whole or not at all."""
        tensors = {k: v.contiguous().cpu() for k, v in self.stream.state().items()}
        tensors |= {f"decoder/{k}": v.contiguous().cpu() for k, v in decoder_state(self.decode).items()}
        tensors |= {} if self.waiting is None else {"waiting": self.waiting.contiguous()}
        write_told(Path(path), tensors, {"prompt": self.prompt, **self.identity()})

    def resume(self, path: str | Path) -> None:
        """Go on from what `keep` wrote. UserError for a file of another model, type or layout."""
        tensors, told = read_told(Path(path))
        for key, expected in self.identity().items():
            if told.get(key) != expected:
                what = DIFFERS.get(key) or f"weights in {told.get(key)}, this stream has {expected}"
                raise UserError(f"is a snapshot of {what}", str(path), "stream as it was made")
        self.stream.restore({k: v for k, v in tensors.items() if not k.startswith("decoder/")})
        self.prompt, self.waiting = told["prompt"], tensors.get("waiting")
        restore_decoder(
            self.decode, {k.removeprefix("decoder/"): v for k, v in tensors.items() if k.startswith("decoder/")}
        )


# -- opening one ----------------------------------------------------------------------------------------------------


def opened(args: argparse.Namespace) -> Live:
    """The stream that options of `vdistill stream` mean. UserError, before anything is made, for what cannot be."""
    whole_number(args.seed, 0, "--seed", 2**63)
    whole_number(args.steps, 1, "--steps")
    whole_number(args.over, 1, "--over")
    if (args.preset is None) != (args.weights is None):
        raise UserError("a public checkpoint needs both", "--preset and --weights")
    spec = preset(args.preset) if args.preset else causal_of(args.model)
    changed = {"window": args.window, "sink": args.sink, "rope": args.places}
    spec = replace(spec, **{k: v for k, v in changed.items() if v is not None})
    spec.layout()
    family = open_model(args.model)
    if (adapters := adapters_of(family)) is not None and adapters.size.features:
        hint = f"use vdistill talk {args.model} --image FILE --audio FILE"
        raise UserError("this model hears, and a stream has no sound", str(args.model), hint)
    if args.weights:
        fill(family, Path(args.weights))
    family.to(device_of(args.device))
    if args.compile:
        can_compile(family.device)
        family.network_of().compile_blocks()
    if (fixed := spec.times or family.times) is not None:
        if args.steps not in (None, len(fixed)):
            raise UserError(f"this student takes {len(fixed)} steps, found {args.steps}", "--steps", "leave it out")
        if args.guidance not in (None, 1.0):
            raise UserError("a few-step student runs without guidance; it has it in its weights", "--guidance")
    known = about_model(family, model_folder(args.model))
    size = size_of(args.size, known)
    stream = stream_of(
        family, spec, [args.prompt or ""], size, seed=args.seed, steps=args.steps or known.steps,
        guidance=known.guidance if args.guidance is None else args.guidance,
        store=torch.device("cpu") if args.offload else None,
    )  # fmt: skip
    live = Live(family, stream, size, args.prompt or "", args.how, strength=args.strength)
    if args.image:
        picture = first_image(Path(args.image), size)
        assert picture is not None
        live.shown = family.codec.encode(still(picture, family, stream)).to(family.device)
    if args.edit:
        live.edited = clip_to_edit(Path(args.edit), live, args.fps)
    if args.resume:
        live.resume(args.resume)
        if args.prompt not in (None, live.prompt):
            live.say(args.prompt)
    return live


def can_compile(device: torch.device) -> None:
    """UserError where torch.compile has no compiler to call."""
    name, usual = ("CC", ("cc", "gcc", "clang")) if device.type == "cuda" else ("CXX", ("g++", "clang++", "c++"))
    if device.type == "cuda" and find_spec("triton") is None:
        raise UserError("needs triton, which is not installed", "--compile", "install it, or leave --compile out")
    if not any(map(shutil.which, filter(None, (os.environ.get(name), *usual)))):
        hint = f"install {usual[1] if device.type == 'cuda' else usual[0]}, or leave --compile out"
        raise UserError(f"needs a compiler: ${name} or one of {', '.join(usual)}; found none", "--compile", hint)


def preset(name: str) -> Saved:
    """How a public causal checkpoint streams."""
    found = PRESETS[name].describe(name)
    assert found is not None
    return of_json(found)


def fill(family: StockFamily, path: Path) -> None:
    """Weights of a public checkpoint into an open Wan pipeline. UserError where names or shapes do not fit."""
    from ..families.wan_checkpoint import fill_transformer, read_names
    from ..families.wan_weights import fits

    transformer = getattr(family.pipe, "transformer", None)
    if family.name not in ("wan", "tiny") or transformer is None:
        raise UserError(f"public causal checkpoints are of Wan, found {family.name}", "--weights")
    found = read_names(path, None)
    if found.layout == "lora":
        hint = "make it a folder first: vdistill convert FILE --base MODEL --out DIR"
        raise UserError("is a LoRA", str(path), hint)
    wanted = {name: tuple(value.shape) for name, value in transformer.state_dict().items()}
    fit = fits(found.shapes, found.said, wanted, found.unknown, [])
    if not fit.whole:
        raise UserError(f"does not fit the base: {fit}", str(path), "vdistill convert --allow can leave names out")
    fill_transformer(found, transformer)


def still(picture: Tensor, family: StockFamily, stream: Stream) -> Tensor:
    """[1, 3, T, H, W]: a picture that stands still for as long as the first block is."""
    latents = stream.next_count * stream.plan.unit
    return picture[:, :, None].expand(-1, -1, 1 + (latents - 1) * family.codec.temporal, -1, -1)


def clip_to_edit(path: Path, live: Live, fps: float) -> Tensor:
    """Latents of a video file, resampled to the stream's rate and size, cut to whole blocks."""
    height, width = live.size
    frames = read_video(path, fps).transpose(0, 1)
    pixels = interpolate(frames, (height, width), mode="bilinear", antialias=True).transpose(0, 1)[None]
    temporal, family = live.family.codec.temporal, live.family
    usable = 1 + (pixels.shape[2] - 1) // temporal * temporal
    return family.codec.encode(pixels[:, :, :usable]).to(family.device)


# -- what is kept of one --------------------------------------------------------------------------------------------


def fingerprint(family: StockFamily) -> str:
    """Of the network's weights: two models that differ in one number differ in it, but for the rarest chance."""
    sums = []
    for name, value in family.network_of().state_dict().items():
        flat = value.detach().flatten().double()
        sums.append(f"{name}:{tuple(value.shape)}:{float(flat.sum())!r}:{float(flat.abs().sum())!r}")
    return hashlib.blake2b("\n".join(sums).encode(), digest_size=16).hexdigest()


def decoder_state(decode: Callable[[Tensor], Tensor]) -> Mapping[str, Tensor]:
    """What a decoder remembers; nothing of one that has no memory."""
    found: Mapping[str, Tensor] = decode.state() if hasattr(decode, "state") else {}
    return found


def restore_decoder(decode: Callable[[Tensor], Tensor], state: Mapping[str, Tensor]) -> None:
    """Give it back."""
    if hasattr(decode, "restore"):
        decode.restore(state)


def write_told(path: Path, tensors: Mapping[str, Tensor], told: Mapping[str, str]) -> None:
    """One safetensors file with words beside the tensors; whole or not at all."""
    aside = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file(dict(tensors), aside, metadata={"vdistill": json.dumps({**told, "kind": "stream"})})
        aside.replace(path)
    except safetensors.SafetensorError as error:
        raise io_error(error, path) from error
    finally:
        aside.unlink(missing_ok=True)


def read_told(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, words) of such a file. UserError for one that is missing, damaged or of another kind."""
    if not path.is_file():
        raise UserError("no such snapshot", str(path), "vdistill stream --snapshot FILE writes one")
    try:
        with safetensors.safe_open(path, "pt") as handle:
            told = json.loads((handle.metadata() or {}).get("vdistill", "{}"))
            if told.get("kind") != "stream":
                raise UserError("is no snapshot of a stream", str(path))
            return {key: handle.get_tensor(key) for key in handle.keys()}, told
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"is damaged ({error})", str(path), "stream from the beginning") from error
