"""What a family says of captions: encoded once, remembered, or read from what was prepared; the encoders may leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.cond import Cond
from ..core.errors import UserError
from .released import release

TEXT_CACHE = 1 << 30  # bytes of encoded captions kept
Parts = dict[str, Tensor]
"""What an encoder says of one caption: name -> [1, ...]; "text" and its parts, "text.mask", "text.pooled"."""
Prepared = Callable[[str | None], Mapping[str, Tensor] | None]
"""Caption (None: no caption) -> what was stored of it, or None for one that is not in the store."""


class Captions:
    """The captions of a pipeline. A family says `encode`.

    folder: the pipeline was opened from; released: its text encoders that have left memory.
    """

    name: ClassVar[str]
    long_tokenizer: str = "tokenizer"
    """Attribute of the pipeline: the tokenizer whose encoder reads the longest captions."""

    def __init__(self, pipe: Any, negative: str) -> None:
        self.pipe, self.negative, self.cut_long_text = pipe, negative, False
        self.folder: Path | None = None
        self.released: tuple[str, ...] = ()
        self._known: dict[str, Parts] = {}
        self._prepared: Prepared = lambda caption: None

    def encode(self, caption: str) -> Parts:
        """What the pipeline's own encoders say of one caption."""
        raise TypeError(f"{type(self).__name__} does not say how captions are encoded")

    def encode_null(self) -> Parts:
        """What stands for "no caption": the negative prompt."""
        return self.encode(self.negative)

    @torch.no_grad()
    def text(self, captions: Sequence[str]) -> Cond:
        """Cond with field "text" [B, L, D] and its parts, null the negative prompt.

        Cached, and encoded one by one: an encoder's last bits depend on what else is in its batch, and a resumed run,
        whose cache is empty, must see the same numbers.
        """
        if sum(t.nbytes for parts in self._known.values() for t in parts.values()) > TEXT_CACHE:
            self._known.clear()
        for caption in {*captions} - self._known.keys():
            self._recall(caption)
        self.check_text(captions)
        for caption in {*captions} - self._known.keys():
            self._known[caption] = self._settled(self.encode(caption))
        null = self.null()
        rows = [self._known[c] for c in captions]
        return Cond({k: torch.cat([row[k] for row in rows]) for k in rows[0]}, null=null)

    @property
    def text_length(self) -> int | None:
        """Most tokens of a caption the network reads; None where there is no such limit."""
        return None

    def check_text(self, captions: Sequence[str]) -> None:
        """UserError for a caption of more tokens than are read, unless long ones may be cut."""
        limit = self.text_length
        if limit is None or self.cut_long_text:
            return
        for caption in {*captions} - self._known.keys():
            found = len(getattr(self.pipe, self.long_tokenizer)(caption).input_ids)
            if found > limit:
                what = f"{found} tokens, {self.name} reads {limit}: {caption[:60]!r}"
                raise UserError(what, "caption", "shorten it, or say family.long_text: cut")

    def null(self) -> Parts:
        """What a caption becomes when it is dropped: name -> [1, ...]."""
        key = "\0null"  # no caption
        if key not in self._known:
            with torch.no_grad():
                self._known[key] = self._settled(self._prepared(None) or self.encode_null())
        return self._known[key]

    def remember(self, prepared: Prepared) -> None:
        """Ask a store of embeddings before encoding."""
        self._prepared = prepared
        self._known.clear()

    def release_encoders(self) -> None:
        """Let the text encoders leave memory: from now on there are only remembered captions.

        `save` copies them from the folder the family was opened from; a family made new has none and keeps them.
        """
        if self.folder is not None:
            self.released += release(self.pipe)

    def _recall(self, caption: str) -> None:
        """Take a caption from the store. UserError for one that is not there when it cannot be encoded any more."""
        found = self._prepared(caption)
        if found is not None:
            self._known[caption] = self._settled(found)
        elif self.released:
            what = f"no text embedding was prepared of {caption[:60]!r}, and the text encoders have left memory"
            raise UserError(what, "caption", "run `vdistill prepare --text` again with it")

    @staticmethod
    def _settled(parts: Mapping[str, Tensor]) -> Parts:
        return {k: (v.float() if v.is_floating_point() else v).detach().cpu() for k, v in parts.items()}
