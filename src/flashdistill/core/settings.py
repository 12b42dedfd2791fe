"""The base of every configuration section."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of the configuration: unknown keys are refused, values do not change.

    Validation is inert: it touches no file, no network and no torch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
