"""The service with a switch for its telemetry, which bench.observability flips.

It switches one service, since two services side by side differ by more than observing costs.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from deployments.http.ingress import Ingress
from deployments.pipeline.classifier import Classifier
from deployments.pipeline.preprocessor import Preprocessor
from deployments.pipeline.routing import ROUTER
from deployments.settings import Settings, parse
from deployments.telemetry.recorder import Recorder
from launcher.processes import RUN

OFF = "observing-is-off"  # a file in the run directory; while it exists, nothing is observed
_POLL_EVERY_S = 0.1


def build(args: dict[str, Any]) -> Application:
    """Ray Serve's application builder: as deployments.app, but with a switch."""
    settings = parse(Settings, args)
    classifier = serve.deployment(name="Classifier", request_router_config=ROUTER)(
        SwitchableClassifier
    ).bind(settings)
    preprocessor = serve.deployment(name="Preprocessor", request_router_config=ROUTER)(
        SwitchablePreprocessor
    ).bind([classifier], settings)
    ingress = serve.deployment(name="Ingress")(serve.ingress()(SwitchableIngress))
    return ingress.bind(preprocessor, [classifier], settings)


class SwitchableClassifier(Classifier):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, SwitchableRecorder())


class SwitchablePreprocessor(Preprocessor):
    def __init__(self, classifiers: Sequence[Any], settings: Settings) -> None:
        super().__init__(classifiers, settings, SwitchableRecorder())


class SwitchableIngress(Ingress):
    def __init__(self, preprocessor: Any, classifiers: Sequence[Any], settings: Settings) -> None:
        super().__init__(preprocessor, classifiers, settings, recorder=SwitchableRecorder())


class SwitchableRecorder(Recorder):
    """Enabled while the file OFF does not exist."""

    def __init__(self) -> None:
        super().__init__()
        self._off = Path(os.environ[RUN]) / OFF
        self._polling = asyncio.get_running_loop().create_task(
            self._poll(), context=contextvars.Context()
        )

    async def _poll(self) -> None:
        while True:
            self.enabled = not self._off.exists()
            await asyncio.sleep(_POLL_EVERY_S)
