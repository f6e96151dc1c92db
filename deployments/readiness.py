"""Whether the whole chain answers, asked in the background."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Awaitable, Callable

from PIL import Image

from deployments.messages import PROBE_ID, Answers, Photo
from mlc_core.labels import Choice

PERIOD_S = 2.0
# An answer to anybody, this recent, shows as much as a probe's: so that a probe that waits its
# turn under overload does not take a working service out of rotation.
_FRESH_S = 10.0


class Readiness:
    """Sends a photo through the chain every PERIOD_S and remembers when one came back.

    Args:
        send: takes a group to the preprocessor; the probe does not wait in the ingress.
        last_answer_at: when the chain last answered a client, on the monotonic clock.
    """

    def __init__(
        self,
        send: Callable[[list[Photo]], Awaitable[Answers]],
        last_answer_at: Callable[[], float],
    ) -> None:
        self._send = send
        self._last_answer_at = last_answer_at
        self._answered_at = float("-inf")
        self._reason = "the first probe is not back yet"

    def not_ready(self) -> str | None:
        """Why the chain is held not to answer; None when it does."""
        last = max(self._answered_at, self._last_answer_at())
        return None if time.monotonic() - last < _FRESH_S else self._reason

    async def watch(self) -> None:
        """Probe until cancelled."""
        photo = Photo(_probe_photo(), Choice(), _FRESH_S, PROBE_ID)
        while True:
            try:
                async with asyncio.timeout(_FRESH_S):
                    (answer,), _ = await self._send([photo])
                if isinstance(answer, Exception):
                    raise answer
                self._answered_at = time.monotonic()
            except Exception as error:  # whatever it is, it is why the service is not ready
                self._answered_at = float("-inf")
                self._reason = f"a probe failed: {error or type(error).__name__}"
            await asyncio.sleep(PERIOD_S)


def _probe_photo() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (60, 80), "white").save(file, "PNG")
    return file.getvalue()
