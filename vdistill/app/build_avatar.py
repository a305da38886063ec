"""Adapters of a config or a folder joined to a family; the talker world as a source of batches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from ..avatar.adapters import NAME, Adapters, AdapterSize, size_for
from ..avatar.conditions import Conditions
from ..avatar.mel import STEPS, Mel
from ..avatar.windows import Windows
from ..core.errors import UserError
from ..core.scope import Roles
from ..families.stock import StockFamily
from ..worlds.talker.damage import USUAL
from ..worlds.talker.duo import Duo
from ..worlds.talker.talker import Talker
from .duo_source import SPARE, DuoSource
from .schema_avatar import AdaptersSpec, DataTalker
from .schema_family import Adaptable
from .talker_source import MOODS, TalkerSource

if TYPE_CHECKING:
    from .schema import Config

CAPTIONS = MOODS


def adapters_of(family: StockFamily) -> Adapters | None:
    """Those of a family's network; None where it has none."""
    beside = family.network_of().beside
    found = beside[NAME] if NAME in beside else None
    assert found is None or isinstance(found, Adapters)
    return found


def with_adapters(family: StockFamily, spec: AdaptersSpec | None) -> StockFamily:
    """The family with new adapters that change nothing yet, if the config asks for some.

    UserError for a model that has adapters already, or a network they do not fit.
    """
    if spec is None:
        return family
    if adapters_of(family) is not None:
        raise UserError("this model has adapters already", "family.adapters", "leave it out")
    network, windows = family.network_of(), Windows(family.codec.temporal, spec.ahead)
    size = size_for(
        network, family.codec.shape(1, *smallest(family))[0], features=STEPS * spec.bands, slots=windows.size,
        width=spec.width, ref=spec.ref, near=spec.near, every=spec.every, causal=spec.causal, ahead=spec.ahead,
    )  # fmt: skip
    network.beside[NAME] = Adapters(size)
    return family


def smallest(family: StockFamily) -> tuple[int, int]:
    """(height, width) in pixels of one token."""
    _, high, wide = family.network_of().patch
    return high * family.codec.spatial, wide * family.codec.spatial


def opened_adapters(family: StockFamily, folder: Path) -> StockFamily:
    """The family with the adapters its folder holds, if any."""
    found = Adapters.read(folder)
    if found is not None:
        size_for(family.network_of(), found.size.channels)  # UserError where they cannot act
        family.network_of().beside[NAME] = found
    return family


def newborn(config: Config, family: StockFamily) -> Adapters | None:
    """New adapters of a config, taken off the network, so that a LoRA of the network leaves them as they are."""
    if not isinstance(config.family, Adaptable) or config.family.adapters is None:
        return None
    found = family.network_of().beside.pop(NAME)
    assert isinstance(found, Adapters)
    return found


def beside_lora(family: StockFamily, roles: Roles, new: Adapters) -> Roles:
    """Roles whose student trains new adapters whole, beside the low-rank ones of the frozen network."""
    family.network_of().beside[NAME] = new
    both = nn.ModuleDict({NAME: new, "adapter": roles.modules["student"]})
    return Roles(roles.teacher, roles.denoisers, {**roles.modules, "student": both})


def conditions_of(family: StockFamily) -> Conditions:
    """How sound and reference become conditions of this model. UserError for one that is deaf."""
    found = adapters_of(family)
    if found is None or not found.size.features:
        raise UserError("this model does not hear", "family.adapters", "say adapters: {} in a new model's config")
    return heard_by(found.size, family.codec.temporal)


def heard_by(size: AdapterSize, stride: int) -> Conditions:
    """Encoder and windows that adapters were trained with. UserError for features of another encoder than log-mel."""
    if size.encoder != "mel":
        raise UserError(f"hears {size.encoder} features", "audio", "give it features made by that network")
    return Conditions(Mel(size.features // STEPS, size.causal), Windows(stride, size.ahead))


def talker_source(family: StockFamily, d: DataTalker, batch: int, seed: int) -> TalkerSource | DuoSource:
    """Windows of the talker world for a family that hears."""
    faults = USUAL if d.damage is None else d.damage
    worlds = Talker("hq", d.size, d.take, seed), Talker("mq", d.size, d.take, seed, damage=faults)
    one = TalkerSource(
        worlds, conditions_of(family), family.codec, family.text, d.frames, batch, d.takes, d.mq, d.edge, d.listen, seed
    )  # fmt: skip
    return DuoSource(one, Duo(d.size, d.take, seed, "train", SPARE), d.duo) if d.duo else one
