"""Speech with phoneme times from eSpeak NG, spoken through its library (optional: `pip install espeakng-loader`)."""

from __future__ import annotations

import ctypes as c
import ctypes.util
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import UserError

RETRIEVAL, PHONEME_EVENTS, PHONEME_IPA, DO_NOT_EXIT = 1, 1, 2, 0x8000  # speak_lib.h
RATE, PITCH, RANGE = 1, 3, 4  # espeak_PARAMETER
UTF8, CHARACTER, PHONEME, END = 1, 1, 7, 0
LATE = 0.015  # seconds its events trail the sound: so much earlier, openings fit loudness best (those of flite fit)
HINT = "pip install espeakng-loader, or your system's espeak-ng package, or use the speech that is shipped"


class _Id(c.Union):
    _fields_ = [("number", c.c_int), ("name", c.c_char_p), ("string", c.c_char * 8)]


class _Event(c.Structure):
    _fields_ = [
        ("type", c.c_int),
        ("unique_identifier", c.c_uint),
        ("text_position", c.c_int),
        ("length", c.c_int),
        ("audio_position", c.c_int),
        ("sample", c.c_int),
        ("user_data", c.c_void_p),
        ("id", _Id),
    ]


_CALLBACK = c.CFUNCTYPE(c.c_int, c.POINTER(c.c_short), c.c_int, c.POINTER(_Event))


@dataclass(frozen=True)
class Spoken:
    """sound: float32 [N] in [-1, 1] at `rate` Hz; phonemes: (begin in seconds, IPA), "" where it pauses."""

    sound: Tensor
    rate: int
    phonemes: tuple[tuple[float, str], ...]


class Espeak:
    """The engine. It is one per process and speaks one text at a time: take it from `engine()`."""

    def __init__(self, library: str, data: str | None) -> None:
        try:
            self._lib = c.CDLL(library)
        except OSError as error:
            raise UserError(f"eSpeak NG does not load: {error}", library, HINT) from error
        self._lib.espeak_Info.restype = c.c_char_p
        options = PHONEME_EVENTS | PHONEME_IPA | DO_NOT_EXIT
        self.rate = int(self._lib.espeak_Initialize(RETRIEVAL, 0, data.encode() if data else None, options))
        if self.rate <= 0:
            raise UserError("eSpeak NG finds no voice data", library, HINT)
        path = c.c_char_p()
        self.version = self._lib.espeak_Info(c.byref(path)).decode()
        self._variants = Path((path.value or b"").decode()) / "voices" / "!v"
        self._sound: list[Tensor] = []
        self._phonemes: list[tuple[float, str]] = []
        self._callback = _CALLBACK(self._hear)  # kept: the library holds no reference
        self._lib.espeak_SetSynthCallback(self._callback)
        self._lock = threading.Lock()

    def _hear(self, sound: c.Array, count: int, events: c.Array) -> int:
        if count > 0:
            self._sound.append(torch.tensor(sound[:count], dtype=torch.int16))
        i = 0
        while events[i].type != END:
            if events[i].type == PHONEME:
                name = bytes(events[i].id.string).split(b"\0")[0].decode("utf-8", "replace")
                self._phonemes.append((max(events[i].sample / self.rate - LATE, 0.0), name))
            i += 1
        return 0

    def say(self, text: str, voice: str, speed: int = 165, pitch: int = 50, span: int = 50) -> Spoken:
        """Speak. voice: a language, with `+variant` or without; speed: words a minute; pitch, span of pitch: 0 to 100.

        Breath noise differs each time: the engine's generator of it runs on, and no call of the library resets it.
        Raises UserError for a voice the engine does not know (it would go on with the last one) and for no sound.
        """
        name, _, variant = voice.partition("+")
        if variant and not (self._variants / variant).is_file():
            raise UserError(f"eSpeak NG has no variant {variant!r}", f"voice {voice}")
        with self._lock:
            self._sound.clear()
            self._phonemes.clear()
            self._check(self._lib.espeak_SetVoiceByName(voice.encode()), f"eSpeak NG has no voice {name!r}", voice)
            for which, value in ((RATE, speed), (PITCH, pitch), (RANGE, span)):
                code = self._lib.espeak_SetParameter(which, value, 0)
                self._check(code, f"eSpeak NG refuses {value} as parameter {which}", voice)
            raw = text.encode() + b"\0"
            code = self._lib.espeak_Synth(raw, c.c_size_t(len(raw)), 0, CHARACTER, 0, UTF8, None, None)
            self._check(code, f"eSpeak NG does not say {text[:40]!r}", voice)
            self._check(self._lib.espeak_Synchronize(), "eSpeak NG does not finish", voice)
            if not self._sound:
                raise UserError(f"eSpeak NG says nothing for {text[:40]!r}", f"voice {voice}")
            return Spoken(torch.cat(self._sound).float() / 32768, self.rate, tuple(self._phonemes))

    @staticmethod
    def _check(code: int, what: str, voice: str) -> None:
        if code != 0:
            raise UserError(f"{what} (code {code})", f"voice {voice}")


def library() -> tuple[str, str | None]:
    """(library, folder of its data): the system's or the espeakng-loader package's. UserError when neither is there."""
    found = ctypes.util.find_library("espeak-ng")
    if found:
        return found, None
    try:
        import espeakng_loader
    except ImportError:
        raise UserError("eSpeak NG is not installed", "speech=espeak", HINT) from None
    return espeakng_loader.get_library_path(), espeakng_loader.get_data_path()


@cache
def engine() -> Espeak:
    """The engine of this process."""
    return Espeak(*library())
