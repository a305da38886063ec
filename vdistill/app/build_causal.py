"""From the causal section of a config to the objects that train a causal student."""

from __future__ import annotations

from ..causal.forcing import Forcing, ForcingConfig
from ..causal.rollout import Plan, SelfForcing
from ..core.denoiser import Net
from ..core.errors import UserError
from ..core.scope import Roles
from ..families.stock import StockFamily
from .models import open_model
from .schema import Config
from .schema_causal import Causal, MethodForcing


def unit_of(family: StockFamily) -> int:
    """Latent frames that are one position of the family's network."""
    return family.network_of().patch[0]


def started(config: Config, family: StockFamily) -> Net | None:
    """The network a causal student begins with, where that is not the teacher. UserError for one of another shape."""
    path = config.causal and config.causal.start
    if not path:
        return None
    found = open_model(path, family.name).net
    ours, theirs = family.net.state_dict(), found.state_dict()
    if {k: v.shape for k, v in ours.items()} != {k: v.shape for k, v in theirs.items()}:
        raise UserError("is of another shape than the teacher", str(path), "start from a student of the same teacher")
    return found


def forcing_of(config: Config, family: StockFamily, roles: Roles) -> Forcing:
    """Training from clips."""
    m, causal = config.method, config.causal
    assert isinstance(m, MethodForcing) and causal is not None
    unit = unit_of(family)
    cfg = ForcingConfig(
        m.kind, m.time_mean, m.time_std, m.floor, m.drop_text, m.weight, family.guided_by, m.context_noise, unit
    )
    return Forcing(cfg, causal.layout(unit), roles.denoisers["student"], roles.modules["student"])


def plan_of(causal: Causal, times: tuple[float, ...], unit: int) -> Plan:
    """How a causal student makes a block."""
    return Plan(causal.layout(unit), times, causal.first_times, causal.level, unit)


def rollout_of(config: Config, family: StockFamily, times: tuple[float, ...]) -> SelfForcing:
    """The student's own rollout, as long as a clip or longer."""
    causal = config.causal
    assert causal is not None
    unit = unit_of(family)
    return SelfForcing(plan_of(causal, times, unit), causal.last and causal.last // unit)
