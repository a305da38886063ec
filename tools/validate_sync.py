"""What the measures of talking say of clips whose faults are known: python tools/validate_sync.py [--json FILE]

Clean clips of the talker world (people and speech that no training sees), and the same late by 3 and 8 frames, at half
resolution with noise and twelve levels, blurred as by a soft decoder, with a mouth that stays shut, and with another
clip's sound. Then faces drawn so many population spreads away from the truth. Prints tables in markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, interpolate

from vdistill.app.talker_truth import faces, mels, openings, rows
from vdistill.avatar.mel import Mel
from vdistill.avatar.sync_net import MiniSyncNet, load_sync_net, mouth_crops
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.eval.aperture import aperture
from vdistill.eval.identity_error import CHEAP, of_clips
from vdistill.eval.sync import Sync, best, distances, pearson, sync
from vdistill.eval.talking import jitter
from vdistill.worlds.talker.clips import Clip
from vdistill.worlds.talker.face import render
from vdistill.worlds.talker.talker import Talker

NET = Path(__file__).resolve().parents[1] / "vdistill" / "assets" / "minisync" / "model.safetensors"


def late(x: Tensor, frames: int) -> Tensor:
    return torch.cat([x[:, :, :1].expand(-1, -1, frames, -1, -1), x[:, :, :-frames]], 2)


def poor(x: Tensor) -> Tensor:
    small = avg_pool3d(x, (1, 2, 2))
    large = interpolate(small, scale_factor=(1.0, 2.0, 2.0), mode="nearest")
    noisy = large + 0.16 * Rng(0).normal("noise", large.shape)
    return noisy.clamp(-1, 1).mul(6).round().div(6)


def shut(clips: Sequence[Clip]) -> Tensor:
    still = [
        render(c.identity, c.mouth[:1].expand(len(c.mouth), -1), c.blink, c.pose, c.frames.shape[-1]) for c in clips
    ]
    return torch.stack([drawn.frames.transpose(0, 1) for drawn in still])


@torch.no_grad()
def learned(net: MiniSyncNet, x: Tensor, mel: Tensor) -> Sync:
    parts = [net(mouth_crops(a), m) for a, m in zip(x.split(6), mel.split(6), strict=True)]
    return best(torch.cat([distances(seen, heard) for seen, heard in parts]))


def spread(offset: Tensor) -> dict[str, float]:
    middle = offset.float().quantile(0.5)
    return {"median": float(middle), "mad": float((offset - middle).abs().quantile(0.5))}


def measured(x: Tensor, opening: Tensor, mel: Tensor, net: MiniSyncNet) -> dict[str, object]:
    seen = aperture(x)
    together, of = pearson(seen, opening), sync(seen[..., None], opening[..., None])
    mini = learned(net, x, mel)
    return {
        "sync_pcc": float(together.mean()), "sync_pcc_std": float(together.std()),
        "offset": spread(of.offset), "sync_d": float(of.distance.mean()), "sync_c": float(of.confidence.mean()),
        "net_offset": spread(mini.offset), "net_d": float(mini.distance.mean()), "net_c": float(mini.confidence.mean()),
        "jitter": float(jitter(x).mean()),
    }  # fmt: skip


def disturbed_people(clips: Sequence[Clip], amounts: Sequence[float]) -> dict[str, float]:
    """Identity error of clips drawn with faces so many spreads from the truth, each number another way."""
    world, found = faces(), {}
    truth = rows(clips)
    n = clips[0].identity.numel()
    way = Rng(0).normal("way", (len(clips), n)).sign()
    for amount in amounts:
        drawn = []
        for clip, direction in zip(clips, way, strict=True):
            other = (clip.identity + amount * direction * world.spread[:n]).clamp(0, 1)
            drawn.append(render(other, clip.mouth, clip.blink, clip.pose, clip.frames.shape[-1]).frames.transpose(0, 1))
        found[f"{amount:g}"] = float(of_clips(world, torch.stack(drawn), truth).total.mean())
    return found


def shown(found: Mapping[str, Mapping[str, object]]) -> str:
    lines = ["| case | Sync-PCC | offset (median, MAD) | D* | C* | MiniSyncNet offset | D | C | jitter |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")

    def at(value: object) -> str:
        return "{median:+.0f}, {mad:.1f}".format(**value) if isinstance(value, dict) else f"{value:.2f}"

    for name, r in found.items():
        pcc = f"{r['sync_pcc']:.3f} ± {r['sync_pcc_std']:.3f}"
        rest = [at(r[k]) for k in ("offset", "sync_d", "sync_c", "net_offset", "net_d", "net_c")]
        lines.append(f"| {name} | {pcc} | {' | '.join(rest)} | {r['jitter']:.3f} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--frames", type=int, default=97)
    parser.add_argument("--split", default="open")
    parser.add_argument("--net", type=Path, default=NET)
    parser.add_argument("--people", type=int, default=6, help="clips whose faces are fitted")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    net, world = load_sync_net(args.net), Talker(args.split, 64, args.frames)
    clips = [world.clip(i) for i in range(args.clips)]
    x, opening, mel = torch.stack([c.frames for c in clips]), openings(clips), mels(clips, Mel(net.mels))
    cases: dict[str, tuple[Callable[[], Tensor], int]] = {
        "clean": (lambda: x, 0),
        "3 frames late": (lambda: late(x, 3), 0),
        "8 frames late": (lambda: late(x, 8), 0),
        "low quality": (lambda: poor(x), 0),
        "blurred": (lambda: avg_pool3d(x, (1, 5, 5), 1, (0, 2, 2), count_include_pad=False), 0),
        "mouth stays still": (lambda: shut(clips), 0),
        "another clip's sound": (lambda: x, 1),
    }
    table = {
        name: measured(make(), opening.roll(turn, 0), mel.roll(turn, 0), net) for name, (make, turn) in cases.items()
    }
    print(shown(table), flush=True)
    few, truth = clips[: args.people], rows(clips[: args.people])
    people: dict[str, object] = {"disturbed": disturbed_people(few, (0.0, 0.125, 0.25, 0.5, 1.0))}
    people["cheap"] = float(of_clips(faces(), x[: len(few)], truth, 3, CHEAP).total.mean())
    people["low quality"] = float(of_clips(faces(), poor(x[: len(few)]), truth).total.mean())
    people["another person"] = float(of_clips(faces(), x[: len(few)], truth.roll(1, 0)).total.mean())
    print(json.dumps(people, indent=1))
    if args.json:
        args.json.write_text(json.dumps({"cases": table, "people": people}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"validate_sync: {error}", file=sys.stderr)
        sys.exit(2)
