"""Judges that look at noised latents themselves [B, C, T, H, W], through convolutions; no network is asked, and
nothing is decoded. Images are clips of T = 1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..core.cond import Cond
from ..core.errors import UserError
from .agreement import Told, agreement

WAVES = 4


def full_steps(width: int) -> list[nn.Module]:
    """3 x 3 x 3 convolutions that halve the picture, then time and picture."""
    return [
        nn.Conv3d(width, 2 * width, 3, (1, 2, 2), 1), nn.SiLU(),
        nn.Conv3d(2 * width, 2 * width, 3, 2, 1), nn.SiLU(),
    ]  # fmt: skip


def factorised_steps(width: int) -> list[nn.Module]:
    """The same reach in space, then in time, in turn: a third of the work."""
    return [
        nn.Conv3d(width, 2 * width, (1, 3, 3), (1, 2, 2), (0, 1, 1)), nn.SiLU(),
        nn.Conv3d(2 * width, 2 * width, (3, 1, 1), 1, (1, 0, 0)), nn.SiLU(),
        nn.Conv3d(2 * width, 2 * width, (1, 3, 3), (1, 2, 2), (0, 1, 1)), nn.SiLU(),
        nn.Conv3d(2 * width, 2 * width, (3, 1, 1), (2, 1, 1), (1, 0, 0)), nn.SiLU(),
    ]  # fmt: skip


class LatentJudge(nn.Module):
    """Logits [B, N], one for a neighbourhood of latents: without norms over positions, no other has a say in it.

    steps: the convolutions between the first, of `width` channels, and the logit; told: as in `TokenHeads`; times: how
    many times it is told, t [B, times] where that is more than one.
    """

    def __init__(
        self,
        channels: int,
        steps: Sequence[nn.Module],
        width: int = 64,
        told: int | Sequence[Told] = 0,
        times: int = 1,
    ) -> None:
        super().__init__()
        self.enter = nn.Conv3d(channels, width, 1)
        self.time = nn.Linear(times * (1 + 2 * WAVES), width)
        self.steps = nn.Sequential(nn.SiLU(), *steps)
        self.leave = nn.Linear(2 * width, 1)
        self.agree = agreement(told, 2 * width)
        for conv in (self.enter, *(step for step in steps if isinstance(step, nn.Conv3d))):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # else what is seen fades to a thousandth

    def forward(self, seen: Sequence[Tensor], t: Tensor, cond: Cond) -> Tensor:
        (x,) = seen
        told = torch.cat([waves(each.expand(len(x))) for each in (t.unbind(1) if t.ndim == 2 else [t])], 1)
        h = self.enter(x.float()) + self.time(told)[..., None, None, None]
        h = self.steps(h)
        rows, h = h.shape[2], h.flatten(2).transpose(1, 2)  # [B, N, 2 width]
        said = self.leave(h).squeeze(-1)
        return said if self.agree is None else said + self.agree(h, cond, rows)

    @staticmethod
    def grid(shape: Sequence[int]) -> tuple[int, int, int]:
        """(T, H, W) of the logits of a sample [B, C, T, H, W]: time is halved, the rest twice."""
        t, h, w = shape[2:]
        return -(-t // 2), -(-h // 4), -(-w // 4)


def waves(t: Tensor) -> Tensor:
    """t [B] and sines and cosines of it [B, 9], float32."""
    phase = math.pi * t[:, None] * torch.arange(1, WAVES + 1, device=t.device)
    return torch.cat([t[:, None], phase.sin(), phase.cos()], 1).float()


class MotionJudge(nn.Module):
    """Another judge shown differences of neighbouring positions along T alone: motion without content.

    Adding one constant frame to all frames changes nothing. A clip needs two positions or more.
    """

    def __init__(self, judge: LatentJudge) -> None:
        super().__init__()
        self.judge = judge

    def forward(self, seen: Sequence[Tensor], t: Tensor, cond: Cond) -> Tensor:
        (x,) = seen
        if x.shape[2] < 2:
            raise UserError("a judge of motion was shown an image", "method.judge.kind", "say latent")
        return torch.as_tensor(self.judge([x.diff(dim=2)], t, cond))

    def grid(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """As of `LatentJudge`, of the differences."""
        return self.judge.grid((*shape[:2], shape[2] - 1, *shape[3:]))
