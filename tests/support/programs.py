"""The programs that docs/integrate.md prints, for tests that run them."""

from __future__ import annotations

import re
from pathlib import Path

from services import PROJECT

PAGE = (PROJECT / "docs/integrate.md").read_text(encoding="utf-8")
PROGRAMS = dict(
    re.findall(r"^`(\w+\.\w+)`(?:(?!\n\n).)*\n\n```\w+\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
)
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def block(start: str) -> str:
    """The one block of commands that starts with `start`."""
    (found,) = [each for each in BLOCKS if each.startswith(start)]
    return found


def write_programs(folder: Path) -> None:
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text, encoding="utf-8")
