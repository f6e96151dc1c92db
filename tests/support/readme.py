"""The commands that README.md prints, for tests that run them."""

from __future__ import annotations

import re
import shlex

from services import PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]


def printed(start: str) -> str:
    """The one command that starts so. A test that asks for it runs it."""
    (command,) = [command for command in COMMANDS if command.startswith(start)]
    return command


def with_args(command: str, *args: str) -> list[str]:
    """A `make` command with more ARGS, as a list of words."""
    words = shlex.split(command)
    given = [word.removeprefix("ARGS=") for word in words if word.startswith("ARGS=")]
    rest = [word for word in words if not word.startswith("ARGS=")]
    return [*rest, f"ARGS={' '.join([*given, *map(shlex.quote, args)])}"]
