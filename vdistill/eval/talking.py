"""What is measured of talking clips, in one flat dictionary for logs, tables and reports.

x is [B, 3, T, H, W] in [-1, 1], 25 frames a second. Truth comes as tensors; what is not given is not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import UserError
from .aperture import INNER, aperture, crosstalk
from .drift import histogram
from .expression import blinks, expression_distance
from .sync import Sync, best, by_second, distances, pearson, sync

FPS = 25.0


@dataclass(frozen=True)
class Truth:
    """What is known of clips. opening: [B, T], how far the mouth should be open; mouth: [B or 1, T or 1, H, W] in
    [0, 1], where it is (default: one centred face); turns: regions [B or 1, S, T or 1, H, W] of several faces and whose
    turn it is, [B or 1, S, T] (`aperture.crosstalk`); identity: clips -> [B], the error of who is seen
    (`identity_error.of_clips`); vectors: clips -> what a sync network sees and hears of every window, [B, N, D] each;
    inner: rgb of the inside of a mouth; expression: clips -> what faces do, tracks [B, T, K] of which the last is how
    far lids are closed (`expression.moments`); expressions: the same of true clips.
    """

    opening: Tensor
    mouth: Tensor | None = None
    turns: tuple[Tensor, Tensor] | None = None
    identity: Callable[[Tensor], Tensor] | None = None
    vectors: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    inner: Sequence[float] = INNER
    expression: Callable[[Tensor], Tensor] | None = None
    expressions: Tensor | None = None


def talking_scores(x: Tensor, truth: Truth) -> dict[str, float]:
    """Means over clips.

    sync_pcc: correlation of pixel aperture and opening at zero shift; sync_d, sync_c, offset: D*, C* and the median
    offset in frames of the same two signals, positive where the picture is late; aperture: mean of the aperture over
    frames; motion, jitter: root mean square of first differences, and flicker, of all but the mouth, [-1, 1] units.
    identity_error, crosstalk, net_d, net_c, net_offset of the sync network, and blinks (a minute), blink_seconds (of
    clips that have one), efd* of expressions: where the truth says how.
    """
    _same_length(x, truth)
    open_ = aperture(x, truth.mouth, truth.inner)
    found = {"sync_pcc": float(pearson(open_, truth.opening).mean())}
    found |= _named(sync(open_[..., None], truth.opening[..., None]))
    if truth.identity is not None:
        found["identity_error"] = float(truth.identity(x).mean())
    found["jitter"] = float(jitter(x, truth.mouth).mean())
    found["motion"] = float(motion(x, truth.mouth).mean())
    found["aperture"] = float(open_.mean())
    if truth.turns is not None:
        found["crosstalk"] = float(crosstalk(x, *truth.turns, truth.inner).mean())
    if truth.vectors is not None:
        found |= best(distances(*truth.vectors(x))).means("net_")
    return found if truth.expression is None else found | _expressed(truth.expression(x), truth.expressions)


def motion(x: Tensor, mouth: Tensor | None = None) -> Tensor:
    """[B]: root mean square change from frame to frame of what is not the mouth."""
    return _elsewhere(x, mouth, 1)


def jitter(x: Tensor, mouth: Tensor | None = None) -> Tensor:
    """[B]: flicker (temporal.py) of what is not the mouth: independent noise of deviation s measures s."""
    return _elsewhere(x, mouth, 2) / 6**0.5


def jerk(track: Tensor, fps: float = FPS) -> Tensor:
    """Root mean square third derivative of tracks [B, T, P], [B, P] in their units per second^3: a fitted pose."""
    if track.shape[1] < 4:
        raise UserError(f"a track of {track.shape[1]} frames has no third derivative", "jerk", "4 frames or more")
    return (track.float().diff(n=3, dim=1) * fps**3).square().mean(1).sqrt()


def colour_slope(x: Tensor, fps: float = FPS) -> Tensor:
    """[B]: how fast the mean colour walks away, length of the least-squares slope of rgb, [0, 1] units per second."""
    colour = ((x.float() + 1) / 2).mean((-1, -2))  # [B, 3, T]
    time = torch.arange(x.shape[2], device=x.device) / fps
    time = time - time.mean()
    return ((colour * time).sum(-1) / time.square().sum()).norm(dim=-1)


def seconds(x: Tensor, truth: Truth, length: float = 2.0, reach: int = 10) -> list[dict[str, float]]:
    """`talking_scores` in time: one row for every `length` seconds, means over clips, for curves of long clips.

    second: where it begins; sync_pcc, sync_d, sync_c, offset (of signals z-scored over the whole clip), jitter, motion,
    aperture; identity_error where the truth says how; colour: 1 - cosine of its histogram of colours with the first
    piece's.
    """
    _same_length(x, truth)
    size = round(length * FPS)
    open_ = aperture(x, truth.mouth, truth.inner)
    matched = by_second(open_[..., None], truth.opening[..., None], FPS, length, reach)
    first, rows = histogram(x[:, :, :size]), []
    for n in range(matched.offset.shape[1]):
        cut = slice(n * size, (n + 1) * size)
        part, where = x[:, :, cut], truth.mouth
        where = where[:, cut] if where is not None and where.shape[1] > 1 else where
        row = {"second": n * length, "sync_pcc": float(pearson(open_[:, cut], truth.opening[:, cut]).mean())}
        row |= _named(Sync(matched.distance[:, n], matched.confidence[:, n], matched.offset[:, n]))
        if truth.identity is not None:
            row["identity_error"] = float(truth.identity(part).mean())
        row["colour"] = float(1 - (histogram(part) * first).sum(1).mean())
        row |= {"jitter": float(jitter(part, where).mean()), "motion": float(motion(part, where).mean())}
        row["aperture"] = float(open_[:, cut].mean())
        rows.append(row)
    return rows


def ends(rows: Sequence[Mapping[str, float]], span: float = 5.0) -> dict[str, float]:
    """Means of the pieces within the first and the last `span` seconds: NAME_first, NAME_last; the offset's largest."""
    length = rows[1]["second"] - rows[0]["second"] if len(rows) > 1 else span
    end = rows[-1]["second"] + length
    first = [r for r in rows if r["second"] + length <= span + 1e-6] or [rows[0]]
    last = [r for r in rows if r["second"] >= end - span - 1e-6] or [rows[-1]]
    found = {"offset_largest": max(abs(r["offset"]) for r in rows)}
    for name in (k for k in rows[0] if k not in ("second", "offset")):
        found[f"{name}_first"] = sum(r[name] for r in first) / len(first)
        found[f"{name}_last"] = sum(r[name] for r in last) / len(last)
    return found


def _expressed(tracks: Tensor, true: Tensor | None) -> dict[str, float]:
    seen = blinks(tracks[..., -1])
    some = seen.seconds[seen.seconds > 0]
    found = {"blinks": float(seen.rate.mean()), "blink_seconds": float(some.mean()) if len(some) else 0.0}
    return found if true is None else found | {"efd*": expression_distance(tracks, true)}


def _named(of: Sync) -> dict[str, float]:
    values = of.means("sync_")
    return {"offset": values.pop("sync_offset"), **values}


def _elsewhere(x: Tensor, mouth: Tensor | None, order: int) -> Tensor:
    """Root mean square difference along time over the pixels outside the mouth in all frames concerned."""
    if x.ndim != 5 or x.shape[2] < order + 1:
        raise UserError(f"expected [B, C, T >= {order + 1}, H, W], found {list(x.shape)}", "talking")
    change = x.float().diff(n=order, dim=2).square().mean(1)  # [B, T - order, H, W]
    inside = _wide(x if mouth is None else mouth, mouth is None)
    inside = inside.expand(-1, x.shape[2], -1, -1).unfold(1, order + 1, 1).amax(-1)
    outside = (inside < 0.5).to(change).expand_as(change)
    return ((change * outside).sum((1, 2, 3)) / outside.sum((1, 2, 3)).clamp(min=1)).sqrt()


def _wide(region: Tensor, default: bool) -> Tensor:
    """[B or 1, T or 1, H, W]: the mouth and a rim of a sixteenth of the picture."""
    if default:
        h, w = region.shape[-2:]
        region = torch.zeros(1, 1, h, w, device=region.device)
        region[..., round(0.56 * h) : round(0.88 * h), round(0.26 * w) : round(0.74 * w)] = 1
        return region
    rim = max(1, region.shape[-1] // 16)
    return torch.nn.functional.max_pool2d(region.float(), 2 * rim + 1, 1, rim)


def _same_length(x: Tensor, truth: Truth) -> None:
    if x.ndim != 5 or truth.opening.shape != (x.shape[0], x.shape[2]):
        found = f"clips {list(x.shape)} and openings {list(truth.opening.shape)}"
        raise UserError(found, "talking", "clips [B, 3, T, H, W] with openings [B, T]")
