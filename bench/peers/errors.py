"""The one error of the comparison."""

from __future__ import annotations


class PeerError(Exception):
    """A peer can't be installed, started or compared; the text says why."""
