"""Checks in the background whether the whole pipeline answers."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Awaitable, Callable

from PIL import Image

from deployments.messages import PROBE_ID, Deadline, GroupAnswers, Photo, PhotoGroup
from mlc_core.labels import Choice
from mlc_core.spec import DEFAULT_IMAGE_SIZE

PERIOD_S = 2.0
# The pipeline is ready if a client's photo or a probe got labels within this time. So a probe that
# waits under overload does not take a working service out of rotation.
_FRESH_S = 10.0
_SILENT: dict[type[Exception], str] = {
    TimeoutError: f"no answer within {_FRESH_S:.0f} s"
}  # errors without a text


class Readiness:
    """Sends a photo through the pipeline, PERIOD_S after each probe, and remembers why one failed.

    Args:
        send: sends a group to the preprocessor. The probe does not wait in the ingress' lanes.
        last_answer_at: when the pipeline last answered a client or a probe, on the monotonic clock.
    """

    def __init__(
        self,
        send: Callable[[PhotoGroup], Awaitable[GroupAnswers]],
        last_answer_at: Callable[[], float],
    ) -> None:
        self._send = send
        self._last_answer_at = last_answer_at
        self._reason = "the first probe is not back yet"

    def not_ready(self) -> str | None:
        """Why the pipeline is not ready; None when it is."""
        fresh = time.monotonic() - self._last_answer_at() < _FRESH_S
        return None if fresh else self._reason

    async def watch(self) -> None:
        """Probe until cancelled."""
        photos = [Photo(_probe_photo(), Choice(), PROBE_ID)]
        while True:
            try:
                async with asyncio.timeout(_FRESH_S):
                    (answer,), _ = await self._send(PhotoGroup(photos, Deadline.after(_FRESH_S)))
                if isinstance(answer, Exception):
                    raise answer
            except Exception as error:  # any error is a reason why the service is not ready
                self._reason = (
                    f"a probe failed: {str(error) or _SILENT.get(type(error), repr(error))}"
                )
            await asyncio.sleep(PERIOD_S)


def _probe_photo() -> bytes:
    file = io.BytesIO()
    size = DEFAULT_IMAGE_SIZE.width_px, DEFAULT_IMAGE_SIZE.height_px
    Image.new("RGB", size, "white").save(file, "PNG")
    return file.getvalue()
