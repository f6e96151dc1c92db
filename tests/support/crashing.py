"""The service with a decoder that ends the process on one photo, as a bug in native code does."""

from __future__ import annotations

import os
import signal
from typing import Any

from deployments import app
from deployments.pipeline import preprocessor

MARK = b"ends the process that decodes it"


class Preprocessor(preprocessor.Preprocessor):
    """The real one, but for the bug."""

    async def _decode(self, progress: Any, waiting: Any, size: Any) -> Any:
        if any(progress.group.photos[n].data.endswith(MARK) for n in waiting):
            os.kill(os.getpid(), signal.SIGKILL)
        return await super()._decode(progress, waiting, size)


def build(args: dict[str, Any]) -> Any:
    app.Preprocessor = Preprocessor  # type: ignore[misc]
    return app.build(args)
