"""Objectives of a run, and which of them it missed."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, ValidationError

OBJECTIVES = Path(__file__).with_name("slo.yaml")


class Objectives(BaseModel):
    """Upper bounds, except requests_per_s, a lower bound. None is not judged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    p50_s: NonNegativeFloat | None = None
    p99_s: NonNegativeFloat | None = None
    error_share: NonNegativeFloat | None = None
    refused_share: NonNegativeFloat | None = None
    requests_per_s: NonNegativeFloat | None = None

    def missed(self, measured: dict[str, float]) -> list[str]:
        """The names of the objectives that `measured` (name -> value) does not keep."""
        missed = []
        for name, asked in self.model_dump(exclude_none=True).items():
            kept = measured[name] >= asked if name == "requests_per_s" else measured[name] <= asked
            if not kept:
                missed.append(name)
        return missed


def load_objectives(file: Path) -> Objectives:
    """Read a file of objectives.

    Raises:
        ValueError: names every wrong key and value.
    """
    try:
        return Objectives.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    except ValidationError as error:
        raise ValueError(f"{file}: {error}") from error
