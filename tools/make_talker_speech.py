"""Make the speech shipped with the `talker` world again: needs eSpeak NG and flite. Prints their versions.

python tools/make_talker_speech.py [--out vdistill/assets/talker_speech]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from vdistill.core.rng import Rng
from vdistill.worlds.talker import sound as wave
from vdistill.worlds.talker.espeak import engine
from vdistill.worlds.talker.sentences import sentence

SEED = 20
VOICES = """en-us en-us+f2 en-us+m3 en-us+f4 en-us+m7 en-us+linda en-us+steph en-us+john en en+f1 en+m1 en+f5 en+m5
en+anika en+edward en-gb-x-rp+f3 en-gb-x-rp+m2 en-gb-x-rp+belinda en-gb-x-rp en-gb-scotland+f2 en-gb-scotland+m4
en-gb-scotland en-029+m8 en-029+f1 en-us+Michael en-us+shelby""".split()
EACH = 16  # utterances of a voice, the last TEST of them for tests only
TEST = 5
FLITE = ("slt", "rms", "awb", "kal16")
FLITE_EACH = 10
SHORT, LONG = 1.9, 4.1  # seconds
GAP = 0.1  # seconds of silence between utterances in a file
_ARPA = """aa ɑ ae æ ah ʌ ao ɔ aw aʊ ax ə ay aɪ eh ɛ er ɜ ey eɪ ih ɪ iy i ow oʊ oy ɔɪ uh ʊ uw u b b ch tʃ d d dh ð f f
g ɡ hh h jh dʒ k k l l m m n n ng ŋ p p r ɹ s s sh ʃ t t th θ v v w w y j z z zh ʒ""".split()
ARPA = dict(zip(_ARPA[::2], _ARPA[1::2], strict=True)) | {"pau": "", "sil": ""}  # the phones of flite in IPA
Track = list[tuple[float, str]]


def espeak(text: str, voice: str, rng: Rng, name: str) -> tuple[Tensor, Track]:
    speed = 150 + rng.integer("speed", 30) + rng.integer(f"{name}/speed", 16)
    pitch = 35 + rng.integer("pitch", 30)
    said = engine().say(text, voice, speed, pitch, 35 + rng.integer("span", 40))
    return wave.resample(said.sound, said.rate), list(said.phonemes)


def flite(text: str, voice: str) -> tuple[Tensor, Track]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.wav"
        command = ["flite", "-voice", voice, "-psdur", "-t", text, "-o", str(path)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        sound = wave.decode(path)
    track, begin = [], 0.0
    for item in out.split():
        phone, _, end = item.rpartition(":")
        track.append((begin, ARPA[phone]))
        begin = float(end)
    return sound, [*track, (begin, "")]


def utterances(voice: str, count: int, index: int) -> list[tuple[str, Tensor, Track]]:
    """`count` utterances between SHORT and LONG seconds, no sentence twice in a voice."""
    rng, found, tried = Rng(SEED, index), dict[str, tuple[str, Tensor, Track]](), 0
    while len(found) < count:
        text = sentence(rng, f"text/{tried}")
        tried += 1
        sound, track = flite(text, voice) if voice in FLITE else espeak(text, voice, rng, f"{tried}")
        if text not in found and SHORT <= len(sound) / wave.RATE <= LONG:
            peak = float(sound.abs().max())
            found[text] = (text, sound * (0.5 / peak), track)
    return list(found.values())


def store(out: Path, voice: str, said: list[tuple[str, Tensor, Track]], part: str) -> list[dict]:
    """Write one file of a voice and say what lies where in it."""
    name = f"{part}-{voice}".replace("+", "-") + ".ogg"
    pause = torch.zeros(round(GAP * wave.RATE))
    rows, begin = [], 0
    for number, (text, sound, track) in enumerate(said):
        begin += len(pause)
        phonemes = [[round(1000 * t), p] for t, p in track]
        where = "voice" if part == "flite" else ("test" if number >= EACH - TEST else "train")
        head = {"voice": f"flite/{voice}" if part == "flite" else voice, "part": where, "file": name}
        rows.append({**head, "begin": begin, "samples": len(sound), "text": text, "phonemes": phonemes})
        begin += len(sound)
    wave.encode(torch.cat([x for _, sound, _ in said for x in (pause, sound)] + [pause]), out / name)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("vdistill/assets/talker_speech"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, voice in enumerate(VOICES):
        rows += store(out, voice, utterances(voice, EACH, i), "espeak")
    for i, voice in enumerate(FLITE):
        rows += store(out, voice, utterances(voice, FLITE_EACH, 1000 + i), "flite")
    spoken = subprocess.run(["flite", "--version"], capture_output=True, text=True).stdout
    version = next((word for word in spoken.split() if word.startswith("flite-")), "?")
    made = {"espeak-ng": engine().version, "flite": version}
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (out / "index.json").write_text(f'{{"made by": {json.dumps(made)},\n"utterances": [\n{lines}\n]}}\n')
    size, seconds = sum(f.stat().st_size for f in out.iterdir()), sum(row["samples"] for row in rows) / wave.RATE
    print(f"{len(rows)} utterances, {seconds:.0f} s, {size / 1e6:.2f} MB, made by {made}")


if __name__ == "__main__":
    main()
