"""Train the small sync network on clean talkers: python tools/train_minisync.py --out FILE [--clips 240] [--steps 1500]

Clips are of the `hq` split of the talker world; within each, a window's own time is told from all others. What is shown
is moved, blurred, dimmed and noised, so that a student's soft mouths are read too. Held out: people and voices never
heard. Writes FILE (safetensors, half precision) and FILE.json: what it was trained on and what it does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vdistill.app.talker_truth import mels
from vdistill.avatar.mel import STEPS, Mel
from vdistill.avatar.sync_net import FRAMES, MOUTH, MiniSyncNet, contrast, load_sync_net, mouth_crops, save_sync_net
from vdistill.core.errors import UserError
from vdistill.core.rng import Rng
from vdistill.eval.sync import Sync, best, distances
from vdistill.worlds.talker.talker import Talker

LENGTH, CUT = 81, 61  # frames of a clip, of what a step shows of it
SHIFTS = (0, 3, 8)


@dataclass(frozen=True)
class Clips:
    """frames [N, 3, T, 64, 64] as bytes, mel [N, T, 4, bands]."""

    frames: Tensor
    mel: Tensor

    def pick(self, index: Tensor, start: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Pixels [B, 3, length, H, W] in [-1, 1] and mel [B, 4 length, bands]."""
        pairs = [*zip(index.tolist(), start.tolist(), strict=True)]
        x = torch.stack([self.frames[i, :, s : s + length] for i, s in pairs]).float().div(127.5).sub(1)
        return x, torch.stack([self.mel[i, s : s + length] for i, s in pairs]).flatten(1, 2)


def clips_of(world: Talker, count: int, encode: Mel) -> Clips:
    made = [world.clip(i) for i in range(count)]
    frames = torch.stack([c.frames.add(1).mul(127.5).round().to(torch.uint8) for c in made])
    return Clips(frames, mels(made, encode).unflatten(1, (-1, STEPS)))


def disturbed(x: Tensor, rng: Rng) -> Tensor:
    """Crops of moved boxes, half of them blurred, all a little noised and dimmed."""
    b = len(x)
    move = rng.uniform("move", (b, 2), -0.05, 0.05).float()
    grow = rng.uniform("grow", (b, 2), -0.04, 0.04).float()
    crops = mouth_crops(x, torch.tensor(MOUTH) + torch.cat([move - grow, move + grow], 1))
    soft = torch.nn.functional.avg_pool3d(crops, (1, 3, 3), 1, (0, 1, 1))
    blur = rng.uniform("blur", (b,)).float().mul(2).sub(1).clamp(min=0).view(-1, 1, 1, 1, 1)
    crops = crops + blur * (soft - crops)
    light = rng.uniform("light", (b, 3, 1, 1, 1), -0.15, 0.15).float()
    gain = rng.uniform("gain", (b, 1, 1, 1, 1), 0.8, 1.2).float()
    noise = rng.uniform("loud", (b, 1, 1, 1, 1), 0, 0.15).float() * rng.normal("noise", crops.shape)
    return gain * crops + light + noise


def train(data: Clips, steps: int, batch: int, rate: float, seed: int) -> MiniSyncNet:
    torch.manual_seed(seed)
    net = MiniSyncNet(data.mel.shape[-1])
    net.mel_mean.copy_(data.mel.mean((0, 1, 2)))
    net.mel_size.copy_(data.mel.std((0, 1, 2)))
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    begun, kept = time.monotonic(), 0.0
    for step in range(steps):
        rng = Rng(seed, step)
        index = rng.integers("clip", (batch,), len(data.frames))
        x, mel = data.pick(index, rng.integers("start", (batch,), LENGTH - CUT + 1), CUT)
        mel = mel + 0.1 * rng.uniform("volume", (batch, 1, 1), -1, 1).float()
        seen, sound = net(disturbed(x, rng), mel)
        loss = contrast(seen, sound, net.scale.exp())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        kept = float(loss.detach()) if step == 0 else 0.98 * kept + 0.02 * float(loss.detach())
        if step % 100 == 99:
            print(f"step {step + 1}  loss {kept:.3f}  {time.monotonic() - begun:.0f} s", flush=True)
    return net.eval()


@torch.no_grad()
def heard(net: MiniSyncNet, data: Clips, late: int = 0) -> Sync:
    """Of whole clips whose picture comes so many frames late."""
    all_of = torch.arange(len(data.frames))
    x, mel = data.pick(all_of, torch.zeros_like(all_of), LENGTH)
    x = torch.cat([x[:, :, :1].expand(-1, -1, late, -1, -1), x[:, :, : LENGTH - late]], 2)
    parts = [net(mouth_crops(a), m) for a, m in zip(x.split(8), mel.split(8), strict=True)]
    return best(torch.cat([distances(seen, sound) for seen, sound in parts]))


def report(net: MiniSyncNet, data: Clips) -> dict[str, float]:
    found: dict[str, float] = {}
    for late in SHIFTS:
        of = heard(net, data, late)
        found[f"late_{late}_within_1"] = float((of.offset - late).abs().le(1).float().mean())
        if late == 0:
            found |= {"distance": float(of.distance.mean()), "confidence": float(of.confidence.mean())}
    wrong = heard(net, Clips(data.frames, data.mel.roll(1, 0)))
    return found | {
        "wrong_sound_distance": float(wrong.distance.mean()),
        "wrong_sound_confidence": float(wrong.confidence.mean()),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=240)
    parser.add_argument("--held-out", type=int, default=24)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--bands", type=int, default=40)
    parser.add_argument("--speech", default="espeak", help="espeak or shipped")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    encode, begun = Mel(args.bands), time.monotonic()
    held_out = {
        split: clips_of(Talker(split, 64, LENGTH, args.seed, "shipped"), args.held_out, encode)
        for split in ("open", "voice")
    }
    data = clips_of(Talker("hq", 64, LENGTH, args.seed, args.speech), args.clips, encode)
    print(f"{args.clips} clips of {LENGTH} frames in {time.monotonic() - begun:.0f} s", flush=True)
    net = train(data, args.steps, args.batch, args.rate, args.seed)
    save_sync_net(net, args.out)
    net = load_sync_net(args.out)
    about = {
        "command": " ".join(["python", "tools/train_minisync.py", *(argv or sys.argv[1:])]),
        "window": {"frames": FRAMES, "mel_bands": args.bands, "causal": encode.causal},
        "parameters": sum(p.numel() for p in net.parameters()),
        "held_out": {split: report(net, clips) for split, clips in held_out.items()},
    }
    args.out.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")
    print(json.dumps(about["held_out"], indent=1))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"train_minisync: {error}", file=sys.stderr)
        sys.exit(2)
