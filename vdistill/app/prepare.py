"""`vdistill prepare`: the user's own videos, images or prompts -> a folder of latents and text that training reads."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import BadMedia, UserError

if TYPE_CHECKING:  # the command line reads `arguments` without paying for torch
    from ..core.codec import Codec
    from ..data.clips import Plan
    from ..data.manifest import Item, Listing
    from ..data.store import Store
    from ..families.stock import StockFamily


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `vdistill prepare`."""
    add = parser.add_argument
    add("src", metavar="SRC", type=Path, help="folder, metadata.jsonl, metadata.csv, or a .txt of prompts alone")
    add("--out", type=Path, required=True, help="folder to write; run again to continue or to take in new files")
    add("--family", default="tiny", help="whose codec: a model folder, tiny, shapes, or the .yaml of the training")
    add("--frames", type=int, default=17, help="frames of a clip (default: 17)")
    add("--fps", default="8", help="frames a second, chosen by timestamps: 8, 23.976, 30000/1001 (default: 8)")
    add("--size", default="32x32", help="WIDTHxHEIGHT in pixels (default: 32x32)")
    add("--buckets", help="several sizes, each clip gets the nearest aspect: 832x480,480x832")
    add("--stride", type=int, help="frames from one clip of a video to the next (default: --frames)")
    add("--images", action="store_true", help="take images too, as clips of one frame")
    add("--caption", help="caption of files that come without one")
    add("--limit-bad", type=float, default=0.05, help="share of bad files that stops (default: 0.05)")
    add("--allow-bad", "--force-bad", action="store_true", help="never stop for bad files, only list them")
    add("--max-seconds", type=float, default=600.0, help="longest video taken (default: 600)")
    add("--max-pixels", type=int, default=4096 * 2304, help="largest frame taken (default: 9437184)")
    add("--decoder", choices=("pyav", "decord"), default="pyav", help="decord: the media extra (default: pyav)")
    add("--text", action="store_true", help="text embeddings too: training then needs no text encoder")
    add("--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="on disk (default: float32)")
    add("--device", default="auto", help="where the family's codec runs: auto, cpu, cuda (default: auto)")


@dataclass
class Tally:
    """Bad files of a run: skipped.jsonl and one line each on stderr."""

    path: Path
    total: int
    allowed: float
    bad: list[tuple[str, str]] = field(default_factory=list)

    def skip(self, key: str, reason: str) -> None:
        """Count and list a bad file. UserError when that makes too many."""
        from ..data.files import write_whole

        self.bad.append((key, reason))
        say(f"skipped {key}: {reason}")
        lines = [json.dumps({"source": k, "reason": r}, ensure_ascii=False) + "\n" for k, r in self.bad]
        write_whole(self.path, "".join(lines).encode("utf-8", "backslashreplace"))
        if len(self.bad) > self.allowed * self.total:
            raise UserError(
                f"{len(self.bad)} of {self.total} files are bad, more than {self.allowed:.0%}; what was done stays",
                str(self.path),
                "mend or remove them, or go on with --allow-bad",
            )


def say(line: str) -> None:
    """One line on stderr that does not tear the progress bar."""
    from tqdm import tqdm

    tqdm.write(line.encode("utf-8", "backslashreplace").decode(), file=sys.stderr)


def run(args: argparse.Namespace) -> int:
    """Prepare; 0 when every source was taken or its skipping is allowed, 130 after Ctrl-C. UserError otherwise."""
    from ..data.files import alone
    from ..data.manifest import scan

    family, plan = make_plan(args)
    out = Path(args.out)
    listing = scan(Path(args.src), images=args.images, caption=args.caption, without=out)
    if listing.ignored:
        say("passed over by suffix: " + ", ".join(f"{n} {s or 'without'}" for s, n in listing.ignored.items()))
    captions = list(listing.prompts) or [item.caption for item in listing.items]
    if family:
        family.check_text(captions)
    with alone(out):
        try:
            if listing.prompts:
                prepare_prompts(out, listing.prompts, plan)
            else:
                prepare_media(out, listing, plan, args)
            if family:
                prepare_texts(out, captions, family, args.dtype)
            return 0
        except KeyboardInterrupt:
            say(f"stopped; finished files stay in {out}; the same command goes on from here")
            return 130


def make_plan(args: argparse.Namespace) -> tuple[StockFamily | None, Plan]:
    """(whose text encoders are wanted, what is made of every source), checked before the first file is opened."""

    from ..data.buckets import parse
    from ..data.clips import Plan
    from ..data.media import Limits, rate
    from .models import device_of

    frames, stride = args.frames, args.stride or args.frames
    if frames < 1 or stride < 1:
        raise UserError(f"--frames {frames}, --stride {stride}: both must be at least 1", "prepare")
    if not 0 <= args.limit_bad <= 1:
        raise UserError(f"--limit-bad {args.limit_bad} is not a share", "prepare", "0.05 is five files in a hundred")
    device = device_of(args.device)
    family, codec = open_family(args.family)
    buckets = parse(args.buckets or args.size)
    for bucket in buckets:
        codec.shape(frames, bucket.height, bucket.width)
    if args.text and family is None:
        hint = "name a model folder, or the .yaml of one that is opened from a folder"
        raise UserError(f"{args.family} has no text encoder yet", "--text", hint)
    first = family.from_image if family and family.needs_image else None
    if family and (args.text or first):
        family.to(device)
    codec.vae.to(device)  # type: ignore[attr-defined]
    limits = Limits(args.max_seconds, args.max_pixels)
    plan = Plan(codec, frames, rate(args.fps), stride, buckets, limits, args.dtype, device, args.decoder, first)
    return family if args.text else None, plan


def open_family(name: str) -> tuple[StockFamily | None, Codec]:
    """A family by its name, a model folder, or the model a config describes; None for one whose text encoder is not
    made yet, which is learned from the data. UserError else."""
    from ..families.pixel import pixel_vae
    from ..families.tiny import TinySize
    from ..families.wan_codec import WanCodec
    from .models import open_model

    if name == "tiny":
        size = TinySize()
        return None, WanCodec(pixel_vae(size.temporal, size.spatial, size.mean, size.std))
    if Path(name).is_dir() or name == "shapes":
        family = open_model(name)
        return family, family.codec
    if Path(name).suffix in (".yaml", ".yml"):
        return family_of_config(Path(name))
    hint = "tiny, shapes, a run, a diffusers folder, or the .yaml you will train with"
    raise UserError(f"no family or model folder {name!r}", "--family", hint)


def family_of_config(config_file: Path) -> tuple[StockFamily | None, Codec]:
    """What training this config will open, so that its data can be prepared first."""
    from ..families.stock import StockFamily
    from ..families.tiny import TinyFamily
    from .build_family import make_family, tiny_size
    from .config import load
    from .schema_family import FamilyTiny

    config = load(config_file)
    f = config.family
    if isinstance(f, FamilyTiny) and f.path is None:  # its vocabulary may be in the data that is not there yet
        return None, TinyFamily.build(tiny_size(f), ["a"], config.seed).codec
    family = make_family(config, texts=False)
    if not isinstance(family, StockFamily):
        raise UserError(f"family {f.name} has no codec for clips", str(config_file))
    return family, family.codec


def prepare_texts(out: Path, captions: list[str], family: StockFamily, dtype: str) -> None:
    """What the family's own encoders say of every caption, once."""
    from .texts import encode_texts

    for line in encode_texts(out, captions, family, dtype):
        say(line)


def prepare_prompts(out: Path, prompts: tuple[str, ...], plan: Plan) -> None:
    """Captions alone: nothing to encode, only the shape to generate is fixed."""
    from ..data.prompts import save_prompts

    size = plan.buckets[0]
    save_prompts(out, prompts, plan.codec.shape(plan.frames, size.height, size.width))
    say(f"{len(prompts)} prompts -> {out}")


def prepare_media(out: Path, listing: Listing, plan: Plan, args: argparse.Namespace) -> None:
    """Every item that is not done yet: decode, fit, encode, store."""
    from tqdm import tqdm

    from ..core.checkpoint import digest
    from ..data.store import Store

    out.mkdir(parents=True, exist_ok=True)
    store = Store(out, plan.settings())
    (out / "skipped.jsonl").unlink(missing_ok=True)
    tally = Tally(out / "skipped.jsonl", len(listing), 1.0 if args.allow_bad else args.limit_bad)
    for key, reason in listing.refused:
        tally.skip(key, reason)
    place = {item.key: item.path for item in listing.items}
    for line in store.begin(lambda key: digest(place[key]) if key in place else None):
        say(line)
    done, made = 0, 0
    bar = tqdm(listing.items, desc="prepare", unit="file", disable=None)
    for item in bar:
        if store.has(item.key):
            store.keep(item.key)
            done += 1
            continue
        try:
            made += add(store, item, plan)
        except BadMedia as error:
            tally.skip(item.key, f"{error.what}{f'; {error.hint}' if error.hint else ''}")
        bar.set_postfix(clips=made, skipped=len(tally.bad))
    clips = store.finish({item.key: item.caption for item in listing.items})
    if not clips:
        raise UserError(f"none of {len(listing)} files could be used", str(tally.path))
    say(f"{clips} clips of {len(store.home)} files ({done} were done before) -> {out}; {len(tally.bad)} skipped")


def add(store: Store, item: Item, plan: Plan) -> int:
    """One source into the store; returns its number of clips. BadMedia leaves the store as it was."""
    import torch

    from ..core.checkpoint import digest
    from ..data.clips import encoded

    code, dtype = digest(item.path), getattr(torch, plan.dtype)
    starts, clips = [], []
    for start, parts in encoded(item, plan):
        starts.append(start)
        clips.append({k: v.to("cpu", dtype if v.is_floating_point() else None) for k, v in parts.items()})
    store.add(item.key, code, starts, {k: torch.cat([clip[k] for clip in clips]) for k in clips[0]})
    return len(starts)
