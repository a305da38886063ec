"""Talking clips out of a manifest: pictures, the sound to them, a reference of the same face, masks, quality.

All items are checked first, so that training never meets a bad one: what is skipped is decided once, in the manifest's
order, whatever the number of workers, and a check that was broken off goes on where it was. A clip is then a function
of its number alone. A file that can no longer be read stops the run; nothing takes its place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.errors import BadMedia, UserError
from ..core.rng import Rng
from ..core.step import Batch
from .bad_items import DataError, Policy, sift
from .talking_check import Checked, TalkRule, check
from .talking_clip import TalkClip, read_clip
from .talking_manifest import TalkItem, read_manifest

CHECKED = "checked.jsonl"
TOLD = 5  # items whose remarks are told
Make = Callable[[Sequence[TalkClip]], Batch]
"""Clips -> what training takes: latents, features of the sound, conditions."""


@dataclass(frozen=True)
class Survey:
    """items: those that can be used, in the manifest's order; bad: those that cannot."""

    items: tuple[Checked, ...]
    bad: tuple[DataError, ...]


def survey(
    manifest: Path | str,
    rule: TalkRule,
    policy: Policy = Policy(),
    out: Path | None = None,
    split: str = "",
    workers: int = 1,
    say: Callable[[str], None] = print,
) -> Survey:
    """Check every line of a manifest. out: a folder for bad_items.jsonl and for what is known already.

    UserError as `sift` has it: in strict mode for the first bad item, else for too many, or when none is left.
    """
    lines = read_manifest(Path(manifest), split)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    known = _Known(out / CHECKED if out else None, rule)
    with ThreadPoolExecutor(workers) as pool:

        def looked(line: TalkItem | DataError) -> Checked | DataError:
            return line if isinstance(line, DataError) else known.check(line)

        try:
            good, bad = sift(_remarked(pool.map(looked, lines), say), len(lines), policy, out, say)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return Survey(tuple(good), tuple(bad))


def _remarked(found: Iterator[Checked | DataError], say: Callable[[str], None]) -> Iterator[Checked | DataError]:
    """The same, of which the first items with remarks are told, and of the others how many there are."""
    odd = 0
    for each in found:
        if isinstance(each, Checked) and each.remarks:
            odd += 1
            if odd <= TOLD:
                say(f"item {each.item.id}: {'; '.join(each.remarks)}")
        yield each
    if odd > TOLD:
        say(f"{odd - TOLD} items more were mended")


class _Known:
    """Verdicts of an earlier check, by what was checked: the line, the rule, and each file's size and time."""

    def __init__(self, path: Path | None, rule: TalkRule) -> None:
        self.path, self.rule, self.verdicts = path, rule, dict[str, dict[str, Any]]()
        for text in path.read_text().split("\n") if path and path.is_file() else ():
            try:
                verdict = json.loads(text)
                self.verdicts[verdict["key"]] = verdict
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a check that was killed: looked at again

    def check(self, item: TalkItem) -> Checked | DataError:
        try:
            key = self.key(item)
        except OSError as error:
            return DataError("file", f"cannot be looked up ({error.strerror})", item.id, str(error.filename))
        said = self.verdicts.get(key)
        if said is None:
            found = verdict(item, self.rule)
            self._write({"key": key, **_told(found)})
            return found
        if "kind" in said:
            return DataError(said["kind"], said["what"], item.id, said["path"], said["hint"])
        return Checked(
            item, said["count"], tuple(said["frames"]), said["sound"], tuple(said["starts"]), tuple(said["remarks"])
        )

    def key(self, item: TalkItem) -> str:
        files = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in item.files]
        told = json.dumps([item.line, repr(self.rule), files], sort_keys=True)
        return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()

    def _write(self, said: dict[str, Any]) -> None:
        if self.path is not None:
            with self.path.open("a") as file:
                file.write("\n" + json.dumps(said))  # the line break first ends what a kill left unfinished


def verdict(item: TalkItem, rule: TalkRule) -> Checked | DataError:
    """What `check` says of an item, as a value."""
    try:
        return check(item, rule)
    except DataError as error:
        return error


def _told(found: Checked | DataError) -> dict[str, Any]:
    if isinstance(found, DataError):
        return {"kind": found.kind, "what": found.what, "path": found.path, "hint": found.hint}
    said = {"count": found.count, "frames": found.frames, "sound": found.sound}
    return {**said, "starts": found.starts, "remarks": found.remarks}


class TalkingData:
    """Talking clips by number, for `data.loader.Feed`. make: clips -> Batch; shape: [C, T, H, W] of its x."""

    def __init__(self, found: Survey, rule: TalkRule, make: Make, shape: tuple[int, ...], seed: int = 0) -> None:
        self.rule, self.make, self.shape, self.rng = rule, make, shape, Rng(seed, turn="talking")
        self.clips = [(each, start) for each in found.items for start in each.starts]
        self.groups = (len(self.clips),)

    def __len__(self) -> int:
        return len(self.clips)

    def captions(self) -> tuple[str, ...]:
        return tuple(each.item.text for each, _ in self.clips)

    def batch(self, indices: Sequence[int]) -> Batch:
        made = [self.clip(i) for i in indices]
        return replace(self.make(made), keys=tuple(clip.key for clip in made))

    def clip(self, index: int) -> TalkClip:
        """UserError when its file, which was fine when it was checked, cannot be read."""
        each, start = self.clips[index]
        try:
            return read_clip(each, start, self.rule, self._reference(each, start))
        except BadMedia as error:
            hint = "it was fine when it was checked; is it still there, and the same?"
            raise UserError(error.what, f"item {each.item.id} ({each.item.video.name})", hint) from error

    def _reference(self, each: Checked, start: int) -> int:
        """A frame of the item outside the clip, or of the clip where there is no other (draw "reference/...")."""
        first, end = each.frames
        others = [k for k in range(first, end) if not start <= k < start + self.rule.frames]
        others = others or [*range(start, start + self.rule.frames)]
        return others[self.rng.integer(f"reference/{each.item.id}/{start}", len(others))]


def stacked(clips: Sequence[TalkClip]) -> dict[str, Tensor]:
    """Of clips: frames [B, 3, T, H, W], sound [B, 640 T] or [B, N, 640 T], valid [B, T], reference [B, 3, H, W],
    quality [B], and the masks that all have, each [B, T, H, W] or "speakers" [B, N, T, H, W]."""
    names = [name for name in clips[0].masks if all(name in clip.masks for clip in clips)]
    found = {name: torch.stack([clip.masks[name] for clip in clips]) for name in names}
    for name in ("frames", "sound", "valid", "reference"):
        found[name] = torch.stack([getattr(clip, name) for clip in clips])
    return {**found, "quality": torch.tensor([clip.quality for clip in clips])}
