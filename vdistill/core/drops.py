"""Conditions dropped at random while training, so that the network can be guided by them later."""

from __future__ import annotations

from torch import Tensor

from .cond import Cond
from .errors import UserError

Table = tuple[tuple[tuple[str, ...], float], ...]
"""(conditions dropped together, share of the samples); rows exclude each other."""


def dropped(cond: Cond, table: Table, draw: Tensor, asked: bool) -> Cond:
    """`Cond.drop_by` a table, draw [B] in [0, 1). asked: the user named its conditions, so that one the data does not
    have is a UserError; otherwise such data stays as it is."""
    missing = sorted({name for names, _ in table for name in names} - {*cond.null})
    if missing and asked:
        has = ", ".join(cond.null)
        raise UserError(f"this data has no condition {missing[0]!r}", "method.drop", f"it has {has}")
    return cond if missing else cond.drop_by(table, draw)
