"""Networks of the user's as TorchScript files: landmarks of faces, embeddings of who they are. Off unless given.

No weights are shipped or downloaded; their licences are the user's affair. A TorchScript file holds a program that runs
when it is called: open only files you trust.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from ..core.errors import UserError

HINT = "a file written by torch.jit.save"


def scripted(path: Path, hint: str = HINT) -> Any:
    """A TorchScript module, frozen. UserError in one line for anything else."""
    if not path.is_file():
        raise UserError("no such file", str(path), hint)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the format, which the user's file is in
            net = torch.jit.load(path, map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise UserError("is not a TorchScript file", str(path), hint) from error
    for weight in net.parameters():
        weight.requires_grad = False
    return net


@torch.no_grad()
def landmarks(net: Any, x: Tensor, size: int = 256) -> Tensor:
    """Points [B, T, 68, 2] in shares of the picture, of faces [B, 3, T, H, W] in [-1, 1].

    net: [N, 3, size, size] in [0, 1] -> [N, 68, 2] (or [N, 136]) in pixels of that size, in the order of iBUG 300-W.
    """
    found = net(_frames(x, size).add(1).div(2))
    if found.numel() != x.shape[0] * x.shape[2] * 136:
        raise UserError(f"answers {list(found.shape)} for {x.shape[0] * x.shape[2]} frames", "landmarks", "68 points")
    return found.view(x.shape[0], x.shape[2], 68, 2) / size  # type: ignore[no-any-return]


def lip_opening(points: Tensor) -> Tensor:
    """[B, T]: gap between the inner lips (means of 61..63 and 65..67) over the distance of the outer eye corners."""
    gap = (points[..., 61:64, :].mean(-2) - points[..., 65:68, :].mean(-2)).norm(dim=-1)
    return gap / (points[..., 36, :] - points[..., 45, :]).norm(dim=-1).clamp(min=1e-6)


@torch.no_grad()
def same_person(net: Any, x: Tensor, reference: Tensor, size: int = 112) -> Tensor:
    """CSIM [B]: mean cosine of the embeddings of frames [B, 3, T, H, W] with that of a reference [B, 3, H, W].

    net: [N, 3, size, size] in [-1, 1] -> [N, D].
    """
    b, t = x.shape[0], x.shape[2]
    frames, other = net(_frames(x, size)), net(_frames(reference[:, :, None], size))
    if frames.ndim != 2 or frames.shape[0] != b * t:
        raise UserError(f"answers {list(frames.shape)} for {b * t} frames", "identity network", "[N, D]")
    return cosine_similarity(frames.unflatten(0, (b, t)), other[:, None], dim=-1).mean(1)


def _frames(x: Tensor, size: int) -> Tensor:
    """[B, 3, T, H, W] -> [B T, 3, size, size]."""
    flat = x.transpose(1, 2).flatten(0, 1).float()
    return interpolate(flat, (size, size), mode="bilinear", antialias=True)
