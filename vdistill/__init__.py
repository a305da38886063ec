"""vdistill: distil slow video diffusion teachers into fast few-step students.

The public names load on first use, so importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app.config import load as load_config
    from .app.generate import Plan, generate
    from .app.stream import stream
    from .app.talk import talk_session
    from .core.cond import Cond
    from .core.denoiser import Denoiser, Net
    from .core.engine import Engine
    from .core.errors import UserError
    from .core.guidance import Guidance
    from .core.guided import Guided
    from .core.rng import Rng
    from .core.schedule import Schedule
    from .families.tiny import TinyFamily
    from .worlds.shapes import Shapes

__version__ = "0.1.0"

_HOMES = {
    "Cond": "core.cond:Cond",
    "Denoiser": "core.denoiser:Denoiser",
    "Engine": "core.engine:Engine",
    "Guidance": "core.guidance:Guidance",
    "Guided": "core.guided:Guided",
    "Net": "core.denoiser:Net",
    "Plan": "app.generate:Plan",
    "Rng": "core.rng:Rng",
    "Schedule": "core.schedule:Schedule",
    "Shapes": "worlds.shapes:Shapes",
    "TinyFamily": "families.tiny:TinyFamily",
    "UserError": "core.errors:UserError",
    "generate": "app.generate:generate",
    "load_config": "app.config:load",
    "stream": "app.stream:stream",
    "talk_session": "app.talk:talk_session",
}

__all__ = [
    "Cond",
    "Denoiser",
    "Engine",
    "Guidance",
    "Guided",
    "Net",
    "Plan",
    "Rng",
    "Schedule",
    "Shapes",
    "TinyFamily",
    "UserError",
    "__version__",
    "generate",
    "load_config",
    "stream",
    "talk_session",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vdistill' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = globals()[name] = getattr(import_module(f"vdistill.{module}"), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
