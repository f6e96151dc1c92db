"""Gives memory that a replica no longer uses back to the system."""

from __future__ import annotations

import asyncio
import ctypes

_EVERY_S = 60.0
# Of glibc; other libraries do without.
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


async def keep_trimming() -> None:
    """Trim the heap once a minute, until cancelled.

    Photos of many sizes leave holes in it, which glibc keeps: an ingress grew by 5% in 25
    minutes (docs/LOG.md).
    """
    while _trim is not None:
        await asyncio.sleep(_EVERY_S)
        await asyncio.to_thread(_trim, 0)
