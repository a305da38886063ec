"""Text embeddings: made by `vdistill prepare --text`, read by everything that opens the family of a config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..core.cond import Cond
from ..core.errors import UserError
from ..data.loader import open_data
from ..data.texts import FOLDER, Texts, TextWriter, fingerprint
from ..families.captions import Parts
from ..families.stock import StockFamily
from .schema import Config, Data, DataMix


def settings_of(family: StockFamily, dtype: str = "float32") -> dict[str, Any]:
    """What has to be equal for embeddings to be this family's. dtype: on disk."""
    return {
        "family": family.name,
        "negative": family.negative,
        "dtype": dtype,
        "probe": fingerprint(family.text),
    }


def encode_texts(data: Path, captions: Sequence[str], family: StockFamily, dtype: str) -> list[str]:
    """Every caption, and no caption, into the prepared folder `data`, each once; what is there already stays.

    Returns lines to say. KeyboardInterrupt keeps what was encoded.
    """
    writer = TextWriter(data, settings_of(family, dtype))
    todo = writer.missing([None, *captions])
    try:
        for caption in tqdm(todo, desc="captions", unit="caption", disable=None):
            writer.add(caption, family.null() if caption is None else said(family, caption))
    finally:
        writer.flush()
    count = writer.finish()
    return [*writer.news, f"{count} captions ({len(todo) - (None in todo)} new) -> {data / FOLDER}"]


def said(family: StockFamily, caption: str) -> Parts:
    """What the encoders say of one caption."""
    return dict(family.text([caption]).fields)


def remember_texts(config: Config, family: StockFamily) -> None:
    """Give a family the embeddings that were prepared with the config's data. Where all of it has them, the text
    encoders leave memory.

    UserError for embeddings of another encoder, or that lack a caption of the data.
    """
    folders = text_folders(config)
    if not folders:
        return
    stores = [Texts(folder) for folder in folders]
    now = settings_of(family)
    for folder, store in zip(folders, stores, strict=True):
        store.check(now)
        wanted = open_data(folder, lambda captions: Cond()).captions()
        missing = [c for c in dict.fromkeys(wanted) if c not in store]
        if missing or None not in store:
            what = f"{len(missing)} captions have no text embedding, the first {missing[:1]}"
            raise UserError(what, str(folder), "run the same `vdistill prepare --text` again")
    own: dict[str | None, Parts] = {c: said(family, c) for c in asked(config)}

    def prepared(caption: str | None) -> dict[str, Tensor] | None:
        found = (store(caption) for store in stores)
        return own.get(caption) or next((each for each in found if each is not None), None)

    family.remember(prepared)
    if len(folders) == len(parts_of(config)):
        family.release_encoders()


def text_folders(config: Config) -> list[Path]:
    """Folders of the config's data that hold text embeddings."""
    found = [Path(path) for part in parts_of(config) if (path := getattr(part, "path", None))]
    return [path for path in found if (path / FOLDER / "index.json").is_file()]


def parts_of(config: Config) -> Sequence[Data]:
    """The parts of a mixture, or the one kind of data."""
    return config.data.parts if isinstance(config.data, DataMix) else (config.data,)


def asked(config: Config) -> tuple[str, ...]:
    """Captions that are needed besides the data's own."""
    return tuple(config.validation.prompts)
