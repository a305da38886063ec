"""What a user can do wrong, said in one line: what, where, and what would help."""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can mend. The command line prints it as one line, without a traceback, and exits 2.

    what: expected and found, in one sentence; where: file, key or clip it concerns; hint: what would do.
    """

    def __init__(self, what: str, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__("".join([f"{where}: " if where else "", what, f"; {hint}" if hint else ""]))


class BadMedia(UserError):
    """A file of the user's data set that cannot be used; `vdistill prepare` skips, counts and lists it."""


class NonFinite(UserError):
    """Losses or gradients were not finite too often in a row; no weights were changed by them."""
