"""SyncNet (Chung and Zisserman 2016) when the user has its weights: LSE-D, LSE-C and offset of real clips.

Nothing is downloaded. `tools/unpickle.py syncnet_v2.model OUT.safetensors` turns the published file into one that is
safe to open; a TorchScript file of the same two towers (`forward_lip`, `forward_aud`) will do too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..core.errors import UserError
from .mfcc import mfcc
from .scripted import scripted
from .sync import REACH, Sync, best, distances

FRAMES, STEPS, SIZE = 5, 4, 224
HINT = "python tools/unpickle.py syncnet_v2.model OUT.safetensors, and give OUT.safetensors"


def _conv2d(c: int, d: int, kernel: int | tuple[int, int], pad: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(c, d, kernel, padding=pad), nn.BatchNorm2d(d), nn.ReLU()]


def _conv3d(c: int, d: int, kernel: tuple[int, ...], stride: int = 1, pad: int = 1) -> list[nn.Module]:
    steps, edge = (1, stride, stride), (0, pad, pad)
    return [nn.Conv3d(c, d, kernel, steps, edge), nn.BatchNorm3d(d), nn.ReLU()]  # type: ignore[arg-type]


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, width))


class SyncNet(nn.Module):
    """The published two towers, under the published names."""

    def __init__(self, width: int = 1024) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_conv2d(1, 64, 3), nn.MaxPool2d(1, 1),
            *_conv2d(64, 192, 3), nn.MaxPool2d(3, (1, 2)),
            *_conv2d(192, 384, 3), *_conv2d(384, 256, 3),
            *_conv2d(256, 256, 3), nn.MaxPool2d(3, 2),
            *_conv2d(256, 512, (5, 4), 0),
        )  # fmt: skip
        self.netfcaud, self.netfclip = _head(width), _head(width)
        self.netcnnlip = nn.Sequential(
            *_conv3d(3, 96, (5, 7, 7), 2, 0), nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_conv3d(96, 256, (1, 5, 5), 2), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_conv3d(256, 256, (1, 3, 3)), *_conv3d(256, 256, (1, 3, 3)),
            *_conv3d(256, 256, (1, 3, 3)), nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_conv3d(256, 512, (1, 6, 6), 1, 0),
        )  # fmt: skip

    def forward_lip(self, x: Tensor) -> Tensor:
        """[N, 3, 5, 224, 224], blue first, 0 to 255 -> [N, width]."""
        return self.netfclip(self.netcnnlip(x).flatten(1))  # type: ignore[no-any-return]

    def forward_aud(self, x: Tensor) -> Tensor:
        """[N, 1, 13, 20] cepstra -> [N, width]."""
        return self.netfcaud(self.netcnnaud(x).flatten(1))  # type: ignore[no-any-return]


def load_syncnet(path: Path) -> Any:
    """From safetensors in the published layout, or from TorchScript. UserError in one line otherwise."""
    if path.suffix != ".safetensors":
        net = scripted(path, HINT)
        if not (hasattr(net, "forward_lip") and hasattr(net, "forward_aud")):
            raise UserError("has no forward_lip and forward_aud", str(path), HINT)
        return net
    if not path.is_file():
        raise UserError("no such file", str(path), HINT)
    try:
        state = load_file(path)
        net = SyncNet(len(state["netfcaud.3.bias"]))
        net.load_state_dict(state)
    except (SafetensorError, KeyError, RuntimeError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"is not SyncNet in its published layout ({said})", str(path), HINT) from error
    return net.requires_grad_(False).eval()


@torch.no_grad()
def syncnet(net: Any, x: Tensor, sound: Tensor, reach: int = REACH, batch: int = 16) -> Sync:
    """LSE-D, LSE-C and offset of face crops [B, 3, T, H, W] in [-1, 1], 25 frames a second, and sound [B, 640 T] in
    [-1, 1] at 16 kHz. Crops are of the whole face, as the published face tracks are; they are brought to 224 x 224.

    The distances are those of positions with picture and sound alone (`sync.distances`), without zeros around.
    """
    found = []
    for clip, heard in zip(x, sound, strict=True):
        count = min(clip.shape[1], len(heard) // 640) - FRAMES
        if count < 2:
            raise UserError(f"{clip.shape[1]} frames with {len(heard)} samples of sound", "SyncNet", "7 frames or more")
        pixels = interpolate(clip.transpose(0, 1), (SIZE, SIZE), mode="bilinear").flip(1).add(1).mul(127.5)
        cepstra = mfcc(32768 * heard).T  # [13, steps]
        seen, listened = [], []
        for first in range(0, count, batch):
            at = range(first, min(first + batch, count))
            seen.append(net.forward_lip(torch.stack([pixels[i : i + FRAMES].transpose(0, 1) for i in at])))
            steps = [cepstra[None, :, STEPS * i : STEPS * (i + FRAMES)] for i in at]
            listened.append(net.forward_aud(torch.stack(steps)))
        found.append(distances(torch.cat(seen)[None], torch.cat(listened)[None], reach))
    return best(torch.cat(found))
