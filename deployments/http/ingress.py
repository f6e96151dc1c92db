"""The ingress deployment: HTTP in front of the pipeline. It never decodes a photo."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.http.access import Access
from deployments.http.api import Api, build_api
from deployments.http.disconnects import Disconnects
from deployments.http.feedback import FeedbackRoute, keep_removing
from deployments.http.middleware import take_photos
from deployments.http.open_inference_grpc import OpenInferenceService
from deployments.http.photo_route import Telemetry
from deployments.http.readiness import Readiness
from deployments.pipeline.autoscaling import REQUESTS_HELD
from deployments.pipeline.calls import SimilarClient, Target, call, connect
from deployments.pipeline.dispatcher import Dispatcher
from deployments.pipeline.memory import keep_trimming
from deployments.pipeline.merging import merge_descriptions
from deployments.pipeline.quarantine import Quarantine
from deployments.pipeline.wire import encode_photos
from deployments.settings import Settings, TracingSettings
from deployments.telemetry.recorder import Recorder
from deployments.telemetry.request_log import RequestLog, request_log_file

if TYPE_CHECKING:
    from deployments.telemetry.tracing import Tracing

# Replicas that answer, in Serve's list.
_SERVING = ("RUNNING", "UPDATING", "PENDING_MIGRATION")


class Ingress(OpenInferenceService):
    """Connects HTTP and gRPC to the pipeline, with dispatcher, readiness, telemetry and handles."""

    def __init__(
        self,
        preprocessor: DeploymentHandle[Any],
        classifiers: Sequence[DeploymentHandle[Any]],
        settings: Settings,
        similar: DeploymentHandle[Any] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        preprocess = Target(preprocessor, encode_photos)
        self._describe = [connect(classifier, "describe") for classifier in classifiers]
        self._similar = None if similar is None else SimilarClient(similar)
        self._settings = settings
        self._recorder = recorder or Recorder()
        send = Quarantine(preprocess.once, preprocess.once_connected)
        self._dispatcher = Dispatcher(send, settings, self._recorder)
        self._readiness = Readiness(self._dispatcher.send, lambda: self._dispatcher.last_answer_at)
        self._request_log = RequestLog(settings.request_log, request_log_file(), self._recorder)
        self._tracing = _tracing(settings.tracing) if settings.tracing.endpoint else None
        self._disconnects = Disconnects()
        self._access = Access(settings.keys_path, _count_ingresses) if settings.keys_path else None
        self._loop, kept = asyncio.get_running_loop(), settings.feedback_path
        self._background: list[asyncio.Task[None]] = []
        self._run_in_background(
            self._readiness.watch(),
            self._disconnects.watch(),
            self._recorder.export(self._dispatcher.set_gauges),
            self._request_log.keep_flushing(),
            keep_trimming(),
            *([self._access.watch()] if self._access else []),
            *([keep_removing(kept, settings.feedback.keep_days)] if kept else []),
        )

    def __serve_build_asgi_app__(self) -> Api:
        """Serve's hook for a class that builds its ASGI application itself."""
        api = build_api(
            self._dispatcher,
            self._describe_model,
            self._readiness.not_ready,
            self._settings,
            Telemetry(self._recorder, self._request_log, self._tracing),
            self._disconnects,
            self._access,
            self._similar,
            self._feedback(),
        )
        take_photos(api.photo_route, self._loop)
        self.application = api
        _collect_garbage_rarely()
        return api

    def _feedback(self) -> FeedbackRoute | None:
        directory = self._settings.feedback_path
        if directory is None:
            return None
        writer = serve.get_replica_context().replica_id.unique_id
        route = FeedbackRoute(
            directory, writer, self._dispatcher, self._describe_model, self._settings,
            self._recorder,
        )  # fmt: skip
        self._run_in_background(route.recent.keep_forgetting())
        return route

    def _run_in_background(self, *work: Coroutine[Any, Any, None]) -> None:
        self._background += [
            self._loop.create_task(each, context=contextvars.Context()) for each in work
        ]

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve asks a replica for when it scales; see `autoscaling`."""
        return {REQUESTS_HELD: float(self._request_log.in_progress)}

    async def _describe_model(self) -> Mapping[str, Any]:
        return merge_descriptions(await asyncio.gather(*map(call, self._describe)))


def _tracing(settings: TracingSettings) -> Tracing:
    # 15 MiB and 0.2 s that an ingress without tracing saves.
    from deployments.telemetry import tracing  # noqa: PLC0415

    return tracing.Tracing(settings)


async def _count_ingresses() -> int:
    """Replicas of this deployment that run, by Serve's list, which may be a second old."""
    own = serve.get_replica_context()
    status = await asyncio.to_thread(serve.status)
    states = status.applications[own.app_name].deployments[own.deployment].replica_states
    return sum(count for state, count in states.items() if state in _SERVING)


def _collect_garbage_rarely() -> None:
    """Keep Python's cyclic garbage collector from looking at thousands of requests again and again.

    Under overload it took a third of an ingress' time. Requests leave few cycles behind.
    """
    gc.collect()
    gc.freeze()  # what exists now stays for as long as the replica does
    gc.set_threshold(50_000, 20, 100)
