"""What every section of the settings is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A closed group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)  # the whole is built with all its parts
