"""The service, with a switch for its metrics, request log and ids: what bench.observability turns.

In the same processes, since two services side by side differ by more than observing costs.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from deployments import api, classifier, grouping, metrics, preprocessor, problems, request_log
from deployments.classifier import Classifier
from deployments.ingress import Ingress
from deployments.preprocessor import Preprocessor
from deployments.settings import Settings, parse

OFF = "observing-is-off"  # a file in the run directory; while it is there, nothing is observed
_LOOK_EVERY_S = 0.1


def build(args: dict[str, Any]) -> Application:
    """Ray Serve's application builder: the composition of deployments.app, with a switch."""
    settings = parse(Settings, args)
    behind = serve.deployment(name="Classifier")(SwitchableClassifier).bind(settings)
    before = serve.deployment(name="Preprocessor")(SwitchablePreprocessor).bind([behind], settings)
    first = serve.deployment(name="Ingress")(serve.ingress()(SwitchableIngress))
    return first.bind(before, [behind], settings)


class SwitchableClassifier(Classifier):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._switch = _keep_looking()


class SwitchablePreprocessor(Preprocessor):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._switch = _keep_looking()


class SwitchableIngress(Ingress):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._switch = _keep_looking()


class _NoEntry(request_log.Entry):
    """One for all requests, that keeps nothing."""

    class _Nowhere(list[Any]):
        def append(self, _: Any) -> None:
            """Forget it."""

    def __init__(self) -> None:
        super().__init__("")
        self.traces = self._Nowhere()


def _keep_looking() -> asyncio.Task[None]:
    """Turn what observes off and on in this process, which is a replica's."""
    off, without = Path(os.environ["MLC_RUN"]) / OFF, _without()
    observing = [(target, name, getattr(target, name)) for target, name, _ in without]

    async def look() -> None:
        while True:
            for target, name, it in without if off.exists() else observing:
                setattr(target, name, it)
            await asyncio.sleep(_LOOK_EVERY_S)

    return asyncio.get_running_loop().create_task(look(), context=contextvars.Context())


def _without() -> list[tuple[Any, str, Callable[..., Any]]]:
    """What observes, as (module or class, name), and what takes its place."""
    entry = _NoEntry()

    def nothing(*_: Any, **__: Any) -> None: ...

    def no_entry(scope: Any) -> Any:
        return scope.setdefault("mlc.request_log_entry", entry)

    recording = (api, classifier, grouping, metrics, preprocessor, problems, request_log)
    return [
        *((module, "record", nothing) for module in recording),
        (metrics.Predictions, "observe", nothing),
        (preprocessor, "format_of", nothing),
        (api, "begin_entry", no_entry),
        (request_log.RequestLog, "end", nothing),
    ]
