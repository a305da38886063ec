"""Keys that methods share which train from data: what is left out of the conditions, and how often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from .section import Section, Share, fault, note

if TYPE_CHECKING:  # reading a config does not pay for torch
    from ..core.drops import Table


class Dropping(Section):
    """A method that trains some samples without some conditions, for guidance."""

    later: ClassVar[tuple[str, ...]] = ("drop",)  # keys that came later
    drop_text: Share = note(0.1, "share of samples trained without their caption, for guidance", "share")
    drop: dict[str, Share] | None = note(
        None, "instead of drop_text: conditions, several joined by +, -> share trained without them", "share"
    )

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What came later is written down only where it is used, so that runs from before go on."""
        return {k: v for k, v in whole(self).items() if k not in self.later or v is not None}

    @model_validator(mode="after")
    def _shares_fit(self) -> Dropping:
        if self.drop is not None and not 0 < sum(self.drop.values()) <= 1:
            raise fault("drop", f"shares exclude each other; together above 0 and at most 1, found {self.drop}")
        if self.drop is not None and "drop_text" in self.model_fields_set and self.drop_text != 0.1:
            raise fault("drop_text", "and drop are two ways to say one thing; say it in drop")
        return self

    @property
    def drops(self) -> Table:
        """(conditions dropped together, share of samples)."""
        return tuple((tuple(n.strip() for n in names.split("+")), share) for names, share in (self.drop or {}).items())
