"""The HTTP contract as a Starlette application. It knows nothing behind the dispatcher."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from difflib import get_close_matches
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from deployments.errors import MalformedRequest, RequestError, ServiceError
from deployments.http import bodies
from deployments.http.disconnects import Disconnects
from deployments.http.middleware import CLASSIFY
from deployments.http.openapi import contract
from deployments.http.problems import Problems
from deployments.messages import Answer
from deployments.pipeline.dispatcher import Dispatched
from deployments.settings import Settings
from deployments.telemetry.catalogue import PHOTOS_ANSWERED
from deployments.telemetry.exposition import exposition
from deployments.telemetry.recorder import Recorder
from deployments.telemetry.request_log import Entry, RequestLog
from mlc_core.errors import PhotoFault
from mlc_core.labels import MAX_TOP_K, Choice

_Body = TypeVar("_Body")

_ENTRY = "mlc.request_log_entry"  # in the ASGI scope
_PARAMETERS = ("top_k", "min_confidence")
_PAGE = Path(__file__).with_name("page.html")
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Pipeline(Protocol):
    """The methods of a dispatcher that the routes call; see pipeline.dispatcher.Dispatcher."""

    def submit(
        self, data: bytes, choice: Choice, request_id: str
    ) -> asyncio.Future[Dispatched]: ...

    async def wait(self, submitted: asyncio.Future[Dispatched]) -> Dispatched: ...

    async def wait_for_all(
        self, submitted: Sequence[asyncio.Future[Dispatched]]
    ) -> list[Dispatched | Exception]: ...


class Telemetry(NamedTuple):
    """Where the routes report to."""

    recorder: Recorder
    request_log: RequestLog


def build_api(
    pipeline: Pipeline,
    describe: Callable[[], Awaitable[Mapping[str, Any]]],
    not_ready: Callable[[], str | None],
    settings: Settings,
    telemetry: Telemetry,
    disconnects: Disconnects,
) -> Starlette:
    """The application.

    Args:
        describe: describes the model in service, as /v1/model answers it.
        not_ready: says why the service is not ready; None when it is.
    """
    limits, upload_timeout_s = settings.limits, settings.upload_timeout_s
    page = _PAGE.read_text(encoding="utf-8")
    problems = Problems(settings.retry_after_s, telemetry.recorder)

    async def classify_batch(request: Request) -> Response:
        choice, entry = _choice(request), request.scope[_ENTRY]
        sent = await _read(bodies.many_photos(request, limits, upload_timeout_s), entry)
        entry.photos = len(sent)
        photos = [photo for photo in sent if isinstance(photo, bytes)]
        submitted = [pipeline.submit(photo, choice, entry.request_id) for photo in photos]
        outcomes = iter(await pipeline.wait_for_all(submitted))
        results = []
        for photo in sent:
            answer = photo if isinstance(photo, Exception) else _answer(next(outcomes), entry)
            status, result = _result(answer, entry, problems)
            telemetry.recorder.record(PHOTOS_ANSWERED, 1, route=entry.route, status=str(status))
            results.append(result)
        return Response(b'{"results":[' + b",".join(results) + b"]}", media_type="application/json")

    async def model(_: Request) -> Response:
        return JSONResponse(await describe())

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> Response:
        reason = not_ready()
        if reason is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse(
            {"status": "not ready", "reason": reason}, HTTPStatus.SERVICE_UNAVAILABLE
        )

    async def show_page(_: Request) -> Response:
        return HTMLResponse(page, headers=_PAGE_HEADERS)

    async def show_contract(_: Request) -> Response:
        return JSONResponse(contract(settings, (await describe())["heads"]))

    async def refuse(request: Request, error: Exception) -> Response:
        return problems.response(error, request.scope[_ENTRY])

    one_photo = _OnePhoto(pipeline, settings, problems, disconnects)
    routes = [
        Route("/", show_page),
        Route(CLASSIFY, one_photo, methods=["POST"]),
        Route("/v1/classify/batch", classify_batch, methods=["POST"]),
        Route("/v1/model", model),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/openapi.json", show_contract),
        *([Route("/metrics", _metrics)] if settings.metrics_endpoint else []),
    ]
    return _Api(
        one_photo,
        telemetry,
        problems,
        routes=routes,
        exception_handlers=dict.fromkeys(
            (RequestError, PhotoFault, ServiceError, HTTPException, ClientDisconnect, Exception),
            refuse,
        ),
    )


class _OnePhoto:
    """The route that nearly every request takes, as bare ASGI."""

    def __init__(
        self, pipeline: Pipeline, settings: Settings, problems: Problems, disconnects: Disconnects
    ) -> None:
        self._pipeline, self._settings = pipeline, settings
        self._problems, self._disconnects = problems, disconnects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, entry, settings = Request(scope, receive), scope[_ENTRY], self._settings
        try:
            choice = _choice(request)
            photo = await _read(
                bodies.one_photo(request, settings.limits, settings.upload_timeout_s), entry
            )
            entry.photos = 1
            submitted = self._pipeline.submit(photo, choice, entry.request_id)
            with self._disconnects.watching(receive, submitted):
                answer = _answer(await self._pipeline.wait(submitted), entry)
            if isinstance(answer, Exception):
                raise answer
        except Exception as error:  # the client gets problem details for any error
            await self._problems.response(error, entry)(scope, receive, send)
            return
        entry.status = int(HTTPStatus.OK)
        headers = [(b"content-length", b"%d" % len(answer)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": entry.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


class _Api(Starlette):
    """Calls the route for one photo without Starlette's middleware and router: they take longer."""

    def __init__(
        self, one_photo: _OnePhoto, telemetry: Telemetry, problems: Problems, **starlette: Any
    ) -> None:
        super().__init__(**starlette)
        self._one_photo, self._telemetry, self._problems = one_photo, telemetry, problems
        self._paths = {route.path for route in self.routes if isinstance(route, Route)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        # Serve leaves its route_prefix in the path.
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        ids = (value for name, value in scope["headers"] if name == b"x-request-id")
        entry = scope[_ENTRY] = Entry(next(ids, b"").decode("latin-1"))
        entry.route = path if path in self._paths else "other"
        is_photo = path == CLASSIFY and scope["method"] == "POST"
        try:
            if is_photo:
                await self._one_photo(scope, receive, send)
            else:
                await super().__call__(scope, receive, _noting_status(send, entry))
        except asyncio.CancelledError:  # by Serve, when the client of a batch request leaves
            self._problems.client_left(entry)
            raise
        finally:
            if is_photo:
                self._telemetry.recorder.record(
                    PHOTOS_ANSWERED, 1, route=entry.route, status=str(entry.status)
                )
            self._telemetry.request_log.end(entry)


def _noting_status(send: Send, entry: Entry) -> Send:
    async def send_and_note(message: Message) -> None:
        if message["type"] == "http.response.start":
            entry.status = int(message["status"])
        await send(message)

    return send_and_note


async def _read(body: Awaitable[_Body], entry: Entry) -> _Body:
    """The photos of a body. Notes how long the body took to arrive."""
    began = time.monotonic()
    photos = await body
    entry.stages_s["read"] = time.monotonic() - began
    return photos


def _answer(outcome: Dispatched | Exception, entry: Entry) -> Answer:
    """The answer to a photo. Notes where its time went."""
    if isinstance(outcome, Exception):
        return outcome
    longest_s = max(outcome.waited_s, entry.stages_s.get(outcome.stage, 0.0))
    entry.stages_s[outcome.stage] = longest_s
    entry.traces.append(outcome.trace)
    return outcome.answer


def _result(answer: Answer, entry: Entry, problems: Problems) -> tuple[int, bytes]:
    """The status and the JSON of one photo of a batch request."""
    if isinstance(answer, bytes):
        return int(HTTPStatus.OK), answer
    details = problems.details(answer, entry.request_id)
    return details["status"], json.dumps(details).encode()


async def _metrics(_: Request) -> Response:
    return Response(await exposition(), media_type=CONTENT_TYPE_LATEST)


def _choice(request: Request) -> Choice:
    """Read from the query how to choose the labels.

    Raises:
        MalformedRequest: a parameter is unknown, given twice, not a number, or out of its range.
    """
    if not request.scope["query_string"]:
        return Choice()
    query = request.query_params
    for name in query:
        if name not in _PARAMETERS:
            meant = get_close_matches(name, _PARAMETERS, n=1)
            hint = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(_PARAMETERS)}"
            raise MalformedRequest(f"there is no query parameter {name!r}; {hint}")
        if len(query.getlist(name)) > 1:
            raise MalformedRequest(f"{name} is given more than once; send it once")
    top_k, min_confidence = query.get("top_k", "1"), query.get("min_confidence", "0")
    if not (re.fullmatch("[0-9]{1,2}", top_k) and 1 <= int(top_k) <= MAX_TOP_K):
        raise MalformedRequest(f"top_k is {top_k!r}; it must be a whole number, 1 to {MAX_TOP_K}")
    try:
        share = float(min_confidence)
    except ValueError:
        share = float("nan")
    if not 0 <= share <= 1:
        raise MalformedRequest(f"min_confidence is {min_confidence!r}; it must be 0 to 1")
    return Choice(int(top_k), share)
