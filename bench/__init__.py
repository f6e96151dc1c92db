"""What the service costs and how fast it is, measured on what `make serve` starts."""

import sys


def say(text: str) -> None:
    """Print a line at once, also where the output is a file."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
