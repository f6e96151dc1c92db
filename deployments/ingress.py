"""The ingress: HTTP in front of the chain. Never decodes a photo, never sees an image."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Mapping, Sequence
from typing import Any

from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette

from deployments.api import build_api
from deployments.calls import call, connect
from deployments.grouping import Grouping
from deployments.merging import merge_models
from deployments.messages import Answers, Photo
from deployments.metrics import export
from deployments.readiness import Readiness
from deployments.request_log import RequestLog, beside_serves_log
from deployments.settings import Settings


class Ingress:
    """Holds what the HTTP contract needs: the groups, the readiness probe, the handles."""

    def __init__(
        self,
        preprocessor: DeploymentHandle[Any],
        classifiers: Sequence[DeploymentHandle[Any]],
        settings: Settings,
    ) -> None:
        self._classify = connect(preprocessor, "classify")
        self._describe = [connect(classifier, "describe") for classifier in classifiers]
        self._settings = settings
        self._grouping = Grouping(self._send, settings)
        self._readiness = Readiness(self._send, lambda: self._grouping.last_answer_at)
        self._request_log = RequestLog(settings.request_log, beside_serves_log())
        self._background = [
            asyncio.get_running_loop().create_task(work, context=contextvars.Context())
            for work in (
                self._readiness.watch(),
                export(self._grouping.gauge),
                self._request_log.keep_flushing(),
            )
        ]

    def __serve_build_asgi_app__(self) -> Starlette:
        return build_api(
            self._grouping,
            self._describe_model,
            self._readiness.not_ready,
            self._settings,
            self._request_log,
        )

    async def _send(self, group: list[Photo]) -> Answers:
        answers: Answers = await call(self._classify, group)
        return answers

    async def _describe_model(self) -> Mapping[str, Any]:
        return merge_models(await asyncio.gather(*map(call, self._describe)))
