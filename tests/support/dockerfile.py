"""Reads k8s/Dockerfile: the steps that build each image."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from manifests import PROJECT

DOCKERFILE = PROJECT / "k8s/Dockerfile"
TARGETS = ("serve", "gpu", "loadtest")


class Step(NamedTuple):
    """An instruction: its name, its options (`--from=…`) and the rest of its text."""

    name: str
    options: dict[str, str]
    text: str


def stages() -> dict[str, tuple[str, list[Step]]]:
    """{stage: (the stage or image it starts from, its steps)}."""
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    made: dict[str, tuple[str, list[Step]]] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        name, _, rest = line.partition(" ")
        options = {}
        while option := re.match(r"--(\w[\w-]*)=(\S+)\s+", rest):
            options[option[1]] = option[2]
            rest = rest[option.end() :]
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            made[stage] = (base, steps := [])
        else:
            steps.append(Step(name, options, rest))
    return made


def steps(target: str) -> Iterator[Step]:
    """Every step that builds an image, in order, those of the stages before it first."""
    base, own = stages()[target]
    if base in stages():
        yield from steps(base)
    yield from own


def sources(step: Step) -> list[str]:
    return shlex.split(step.text)[:-1]
