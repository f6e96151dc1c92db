"""The commands that README.md prints, for tests that run them."""

from __future__ import annotations

import re

from services import PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]


def printed(start: str) -> str:
    """The one command that starts with `start`. A test that asks for it must run it."""
    (command,) = [command for command in COMMANDS if command.startswith(start)]
    return command
