"""`vdistill talk --image face.png --audio speech.wav --out talk.mp4`: a face that says what a sound says, for as long
as the sound lasts.

`--audio -` takes raw 16-bit samples at 16 kHz from another program and makes the film while they come.
As a library: `vdistill.talk_session("talker_student", "face.png").push(pcm)` takes sound as it comes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UserError

if TYPE_CHECKING:  # the command line reads `arguments` without paying for torch
    from torch import Tensor

    from ..avatar.session import Meter, Session
    from ..families.stock import StockFamily
    from .about import About
    from .speaker import Speaker

SCALES = {"ref": "--ref-scale", "audio": "--audio-scale"}
TALKER = "talker_student"
TEXT = "a person speaks"
LONG = ("blocks", "windows")
TOLD = 5.0  # seconds of video between two lines on the latency of a live sound
PUSHED = 8000  # samples given to the session at once


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `vdistill talk`."""
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help=f"run or folder of a model that hears (default: {TALKER})")
    add("--student", metavar="MODEL", help="the same, said as an option")
    add("--image", metavar="FILE", type=Path, required=True, help="the face: one picture, PNG or JPEG")
    add("--box", metavar="X0,Y0,X1,Y1", help="of the face in the picture, in pixels, where it is not all of it")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--audio", metavar="FILE", type=Path, help="what is said: any audio or video file, "
        "or - for s16le samples at 16 kHz, one channel, from standard input")  # fmt: skip
    mask = "one of several people in the picture: what is said, and a picture of its size, white where they are"
    who.add_argument("--speaker", metavar="AUDIO:MASK.png", action="append", default=[], help=mask)
    add("--out", metavar="FILE", type=Path, default=Path("talk.mp4"), help="MP4 to write (default: talk.mp4)")
    add("--text", metavar="TEXT", default=TEXT, help=f"what else is said of the clip (default: {TEXT!r})")
    add("--audio-scale", metavar="S", type=float, help="how strongly the mouth follows the sound; 1 means as it is")
    add("--ref-scale", metavar="S", type=float, help="how strongly the face is kept; 1 means as it is")
    add("--steps", metavar="N", type=int, help="of a teacher (default: the model's); a student's are its own")
    add("--block", metavar="N", type=int, help="latent positions made at once; all that fit without it")
    add("--long", choices=LONG, default="blocks", help="longer than a clip: one block after the other, or all at once "
        "in windows that overlap (default: blocks)")  # fmt: skip
    add("--seed", type=int, default=0, help="of the noise (default: 0)")
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")


def run(args: argparse.Namespace) -> int:
    """Talk into a file; prints it, and beside it FILE.json says what it took."""
    from ..avatar.rates import FPS, RATE
    from ..data.writer import video_writer
    from .lock import as_folder
    from .stream import stopping

    if args.out.is_dir() or args.out.suffix != ".mp4":
        what = "is a folder" if args.out.is_dir() else "is no name of an .mp4 file"
        raise UserError(what, str(args.out), "name a file such as talk.mp4")
    as_folder(args.out.parent)
    made = conversation(args) if args.speaker else live(args) if str(args.audio) == "-" else monologue(args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    speaker = made.speaker
    scale = max(1, 256 // (speaker.shape[-2] * speaker.family.codec.spatial))
    with stopping() as stopped, video_writer(args.out, FPS, scale=scale, sound=(made.sound, RATE)) as file:
        for frames in made.blocks:
            if made.fresh is not None:
                file.hear(made.fresh())
            file.write(frames)
            if stopped():
                print(f"ended after {file.frames / FPS:.1f} s", file=sys.stderr)
                break
        count = file.frames
    told = {"frames": count, "seconds": count / FPS, "passes": speaker.passes, **made.meter.said()}
    args.out.with_suffix(".json").write_text(json.dumps({"model": model_of(args), "seed": args.seed, **told}, indent=1))
    print(args.out)
    print(f"{count / FPS:.1f} s of video, {speaker.passes} passes, {told['realtime_factor']:.2f} x real time",
          file=sys.stderr)  # fmt: skip
    return 0


@dataclass(frozen=True)
class Talk:
    """sound: what is heard, [samples]; blocks: frames [3, n, H, W], one after the other; meter: what they cost; fresh:
    asks a live one for sound that came since."""

    speaker: Speaker
    sound: Tensor
    blocks: Iterator[Tensor]
    meter: Meter
    fresh: Callable[[], Tensor] | None = None


def monologue(args: argparse.Namespace) -> Talk:
    """One face says one sound."""
    from ..avatar.rates import SAMPLES
    from ..data.sound import read_sound
    from .speaker import session_of

    sound = read_sound(args.audio, seconds=3600.0)
    for remark in sound.remarks:
        print(f"{args.audio}: {remark.text}", file=sys.stderr)
    if len(sound.samples) < SAMPLES:
        raise UserError(f"lasts {sound.seconds:.3f} s, less than one frame", str(args.audio), "give a longer sound")
    speaker = opened(args)
    if args.long == "windows":
        return at_once(args, speaker, sound.samples)
    session = session_of(speaker, args.block)
    pieces = [*sound.samples.split(PUSHED), None]
    chunks = (chunk for piece in pieces for chunk in (session.finish() if piece is None else session.push(piece)))
    return Talk(speaker, sound.samples, (chunk.frames for chunk in chunks), session.meter)


def at_once(args: argparse.Namespace, speaker: Speaker, sound: Tensor) -> Talk:
    """One face says a whole sound in windows. UserError for a block, of which there is none."""
    from ..avatar.rates import SAMPLES
    from ..avatar.session import Meter
    from .talk_windows import checked, heard_whole, in_windows

    if args.block:
        raise UserError("windows are as long as the model's clips", "--block", "leave it out")
    checked(speaker, len(sound) // SAMPLES)
    meter = Meter(0.0)
    return Talk(speaker, sound, in_windows(speaker, *heard_whole(speaker, sound), meter), meter)


def live(args: argparse.Namespace) -> Talk:
    """One face says what another program pipes in, while it comes. UserError for windows, which need the whole."""
    import torch

    from ..avatar.rates import FPS
    from .speaker import session_of
    from .talk_live import Live, latency, piped

    if args.long == "windows":
        raise UserError("a sound that is not over cannot be made at once", "--long windows", "use --long blocks")
    source = piped(sys.stdin.buffer)
    session = session_of(speaker := opened(args), args.block)
    fed = Live(session, source)

    def blocks() -> Iterator[Tensor]:
        told = 0.0
        for frames in fed:
            yield frames
            if session.meter.frames / FPS >= told + TOLD:
                told = session.meter.frames / FPS
                print(latency(session.meter), file=sys.stderr)
        print(latency(session.meter), file=sys.stderr)

    return Talk(speaker, torch.zeros(0), blocks(), session.meter, fed.fresh)


def conversation(args: argparse.Namespace) -> Talk:
    """Several people in one picture, each with a sound and a mask. UserError for a box beside the masks."""
    from ..avatar.session import Meter
    from .scene import read_scene, spoken, voices_of

    if args.long == "windows":
        raise UserError("is for one speaker", "--long windows", "leave it out")
    if args.box:
        raise UserError("the masks say where people are", "--box", "leave it out, or cut the picture")
    voices = voices_of(args.speaker)
    family, known = model_for(args)
    scene = read_scene(args.image, voices, family, known.height)
    for remark in scene.remarks:
        print(remark, file=sys.stderr)
    speaker, meter = speaking(args, family, known, scene.picture), Meter(0.0)
    return Talk(speaker, scene.sound, spoken(speaker, scene, args.block, meter), meter)


def talk_session(model: str | Path, image: str | Path, **options: Any) -> Session:
    """A live session of a model and a face. options: as `vdistill talk` takes them, with underscores (box, text,
    audio_scale, ref_scale, steps, block, seed, device). See `Session.push`."""
    from .speaker import session_of

    parser = argparse.ArgumentParser(prog="vdistill.talk_session", exit_on_error=False)
    arguments(parser)
    known = vars(parser.parse_args([str(model), "--image", str(image), "--audio", ""]))
    if unknown := options.keys() - known.keys():
        raise UserError(f"no option {min(unknown)!r}", "talk_session", f"there are {', '.join(sorted(known))}")
    args = argparse.Namespace(**{**known, **options})
    return session_of(opened(args), args.block)


def opened(args: argparse.Namespace) -> Speaker:
    """The speaker that the command line asks for. UserError for a model that does not hear, or scales it has no use
    for; BadMedia for a picture that is none."""
    from ..data.buckets import Bucket
    from ..data.face_image import read_face

    family, known = model_for(args)
    face = read_face(args.image, Bucket(known.width, known.height), box_of(args.box))
    for remark in face.remarks:
        print(f"{args.image}: {remark}", file=sys.stderr)
    return speaking(args, family, known, face.pixels.float() / 127.5 - 1)


def model_for(args: argparse.Namespace) -> tuple[StockFamily, About]:
    """The model asked for, and what is known of it. UserError for one that does not hear, and for wrong numbers."""
    from .build_avatar import conditions_of
    from .models import about_model, device_of, model_folder, open_model, whole_number

    whole_number(args.steps, 1, "--steps")
    whole_number(args.block, 1, "--block")
    whole_number(args.seed, 0, "--seed", 2**63)
    family = open_model(model_of(args)).to(device_of(args.device))
    known = about_model(family, model_folder(model_of(args)))
    conditions_of(family)
    if family.times is not None and args.steps not in (None, len(family.times)):
        raise UserError(f"this student takes {len(family.times)} steps, found {args.steps}", "--steps", "leave it out")
    return family, known


def speaking(args: argparse.Namespace, family: StockFamily, known: About, pixels: Tensor) -> Speaker:
    """A speaker of a picture [3, H, W] in [-1, 1] under the options of the command line."""
    from .causal_file import read_causal
    from .causal_speaker import causal
    from .models import model_folder
    from .speaker import speaker_of

    speaker = speaker_of(
        family, pixels, known.frames, args.text, scales=scales_of(args, known), begins=known.begins, level=known.level,
        steps=args.steps or known.steps, seed=args.seed,
    )  # fmt: skip
    spec = read_causal(model_folder(model_of(args)))
    return speaker if spec is None else causal(speaker, spec)


def model_of(args: argparse.Namespace) -> str:
    """The model asked for, or the shipped one. UserError for two."""
    if args.student is not None and args.model is not None:
        what = f"two models, {args.model} and {args.student}"
        raise UserError(what, "talk", "name one: vdistill talk MODEL --image FILE --audio FILE")
    return str(args.student or args.model or TALKER)


def scales_of(args: argparse.Namespace, known: About) -> dict[str, float]:
    """Those of the command line over the model's own, in the order of the chain. UserError for one out of range."""
    from .models import finite

    found = dict(known.scales)
    for name, option in SCALES.items():
        given = getattr(args, option[2:].replace("-", "_"))
        finite(given, 0, option)
        if given is not None:
            found[name] = given
    return {name: found[name] for name in (*SCALES, *found) if name in found}


def box_of(text: str | None) -> tuple[float, ...] | None:
    """ "10,20,90,120" -> numbers. UserError for anything else."""
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != 4:
        raise UserError(f"expected X0,Y0,X1,Y1 such as 10,20,90,120, found {text!r}", "--box")
    return found
