"""A small model that hears, and files for it to hear, that several tests share."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import av
from torch import Tensor

from vdistill.app import config as configs
from vdistill.app.about import About
from vdistill.app.build_family import make_family
from vdistill.avatar.rates import RATE
from vdistill.core.rng import Rng
from vdistill.families.stock import StockFamily

ROOT = Path(__file__).resolve().parents[1]


@cache
def model(begins: int = 2) -> Path:
    """A folder of an untrained model that hears, its outputs not all one."""
    folder = Path(mkdtemp()) / "model"
    family = make_family(configs.load(ROOT / "configs/avatar/talker_teacher_tiny.yaml"))
    assert isinstance(family, StockFamily)
    for i, (name, p) in enumerate(sorted(family.net.named_parameters())):
        if not p.any():
            p.data = 0.02 * Rng(i).normal(name, p.shape)
    family.save(family.net, folder)
    About(9, 32, 32, steps=3, scales={"ref": 1.5, "audio": 2.0}, begins=begins).write(folder)
    return folder


def write_sound(path: Path, sound: Tensor) -> None:
    """A WAV file of samples [N] in [-1, 1] at 16 kHz."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray((sound.clamp(-1, 1) * 32767).short().numpy()[None], "s16", "mono")
        frame.sample_rate = RATE
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
