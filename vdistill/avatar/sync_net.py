"""A small network that tells whether a mouth and a sound go together: SyncNet's two towers, a hundredth of its size.

A window is 5 frames of a mouth (0.2 s at 25 frames a second) or the 20 log-mel steps (hop 10 ms) that sound meanwhile.
Both become unit vectors; they are trained to be near at the same time and far at any other (`contrast`), so their
distances over shifts give SyncNet's D, C and offset.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, gelu, grid_sample, normalize

from ..core.errors import UserError
from .mel import STEPS

FRAMES = 5  # of a window
CROP = (24, 32)  # rows, columns
MOUTH = (0.24, 0.56, 0.76, 0.88)  # x0, y0, x1, y1 of a centred face, shares of the picture
LARGEST = 64  # pixels an edge; larger pictures are averaged down to it before the crop


def mouth_crops(x: Tensor, box: Tensor | None = None) -> Tensor:
    """[B, 3, T, H, W] -> [B, 3, T, 24, 32], the same corners in all frames or [B, T, 4] of each; differentiable.

    box: [B, 4] or [B, T, 4], x0, y0, x1, y1 in shares of the picture; the default suits one centred face.
    """
    b, c, t, h, w = x.shape
    flat = x.transpose(1, 2).flatten(0, 1)
    if max(h, w) > LARGEST:
        flat = adaptive_avg_pool2d(flat, (min(h, LARGEST), min(w, LARGEST)))
    box = torch.tensor(MOUTH, device=x.device).expand(b, 4) if box is None else box.to(x.device)
    each = (box if box.ndim == 3 else box[:, None].expand(b, t, 4)).reshape(b * t, 4).to(x.dtype)
    rows, columns = ((torch.arange(n, device=x.device, dtype=x.dtype) + 0.5) / n for n in CROP)
    across = each[:, :1] + (each[:, 2:3] - each[:, :1]) * columns  # [B T, 32]
    down = each[:, 1:2] + (each[:, 3:] - each[:, 1:2]) * rows  # [B T, 24]
    places = [across[:, None].expand(-1, CROP[0], -1), down[:, :, None].expand(-1, -1, CROP[1])]
    grid = 2 * torch.stack(places, -1) - 1
    cut = grid_sample(flat, grid, padding_mode="border", align_corners=False)
    return cut.unflatten(0, (b, t)).transpose(1, 2)


class MiniSyncNet(nn.Module):
    """mels: bands of the sound; width: of the vectors; mel_mean, mel_size: bring each band to mean 0, deviation 1."""

    mel_mean: Tensor
    mel_size: Tensor

    def __init__(self, mels: int = 40, width: int = 64) -> None:
        super().__init__()
        self.mels, self.width = mels, width
        self.seen = nn.ModuleList([nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 48, 3, 2, 1)])
        self.frame = nn.Linear(48 * (CROP[0] // 8) * (CROP[1] // 8), 96)
        self.shown = nn.Sequential(nn.GELU(), nn.Conv1d(96, 96, FRAMES), nn.GELU(), nn.Conv1d(96, width, 1))
        self.heard = nn.Sequential(
            nn.Conv1d(mels, 128, STEPS, STEPS), nn.GELU(), nn.Conv1d(128, 96, 1), nn.GELU(),
            nn.Conv1d(96, 128, FRAMES), nn.GELU(), nn.Conv1d(128, width, 1),
        )  # fmt: skip
        self.scale = nn.Parameter(torch.tensor(2.5))  # log of the inverse temperature
        self.register_buffer("mel_mean", torch.zeros(mels))
        self.register_buffer("mel_size", torch.ones(mels))

    def look(self, crops: Tensor) -> Tensor:
        """Mouths [B, 3, T, 24, 32] in [-1, 1] -> unit vectors [B, T - 4, D], one for every run of 5 frames."""
        if crops.shape[2] < FRAMES:
            raise UserError(f"a clip of {crops.shape[2]} frames has no window of {FRAMES}", "sync")
        b, _, t = crops.shape[:3]
        h = crops.transpose(1, 2).flatten(0, 1)
        for layer in self.seen:
            h = gelu(layer(h))
        each = self.frame(h.flatten(1)).unflatten(0, (b, t))
        return normalize(self.shown(each.transpose(1, 2)).transpose(1, 2), dim=-1)

    def listen(self, mel: Tensor) -> Tensor:
        """Log-mel [B, 4 T, mels] -> unit vectors [B, T - 4, D], one for every 20 steps from a frame's beginning."""
        if mel.shape[-1] != self.mels or mel.shape[1] < FRAMES * STEPS:
            raise UserError(f"expected a mel [B, 20 steps or more, {self.mels}], found {list(mel.shape)}", "sync")
        heard = self.heard(((mel - self.mel_mean) / self.mel_size).transpose(1, 2))
        return normalize(heard.transpose(1, 2), dim=-1)

    def forward(self, crops: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        return self.look(crops), self.listen(mel)


def contrast(seen: Tensor, heard: Tensor, scale: Tensor | float) -> Tensor:
    """Mean cross entropy of picking each window's own time among all of its clip's, both ways; [B, N, D] each."""
    logits = scale * seen @ heard.transpose(1, 2)
    own = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
    return (cross_entropy(logits.transpose(1, 2), own) + cross_entropy(logits, own)) / 2


def save_sync_net(net: MiniSyncNet, path: Path) -> None:
    """Half precision; the sizes are in the file."""
    tensors = {name: value.detach().half().contiguous() for name, value in net.state_dict().items()}
    save_file(tensors, path, {"mels": str(net.mels), "width": str(net.width)})


def load_sync_net(path: Path) -> MiniSyncNet:
    """A frozen network in float32. UserError for a file that is not one."""
    if not path.is_file():
        raise UserError("no such file", str(path), "tools/train_minisync.py makes one")
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            net = MiniSyncNet(int(about["mels"]), int(about["width"]))
            net.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"is not a sync network ({said})", str(path), "tools/train_minisync.py makes one") from error
    return net.requires_grad_(False).eval()
