"""What a job handed back: text by name, and readers that make other things of it."""

from __future__ import annotations

import json
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class Variables(dict[str, str]):
    """A dict of text. The readers raise KeyError for a name that isn't there, and ValueError that says the name and
    what was expected (never the value) for a text that doesn't fit."""

    def json(self, name: str) -> Any:
        """The value of a JSON document."""
        try:
            return json.loads(self[name])
        except RecursionError:
            raise ValueError(f"the variable '{name}' is no JSON that can be read: it is nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"the variable '{name}' is no JSON: {_where(error)}") from None

    def int(self, name: str) -> int:
        """A whole number."""
        try:
            return int(self[name])
        except ValueError:
            raise ValueError(f"the variable '{name}' is no whole number") from None

    def float(self, name: str) -> float:
        """A number."""
        try:
            return float(self[name])
        except ValueError:
            raise ValueError(f"the variable '{name}' is no number") from None

    def bool(self, name: str) -> bool:
        """true, yes, on, 1 or false, no, off, 0, in small or capital letters."""
        word = self[name].strip().lower()
        if word not in _TRUE + _FALSE:
            raise ValueError(f"the variable '{name}' is neither true nor false")
        return word in _TRUE

    def lines(self, name: str) -> list[str]:
        """The lines, without their ends."""
        return self[name].splitlines()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls, core_schema.dict_schema(core_schema.str_schema(), core_schema.str_schema())
        )


def _where(error: ValueError) -> str:
    return f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else "not a document"
