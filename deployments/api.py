"""The HTTP contract as a Starlette application; knows the model only by the callables it gets."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from deployments import body, problems
from deployments.errors import ClientLeft, MalformedRequest, RequestError, ServiceError
from deployments.exposition import exposition
from deployments.messages import Answer
from deployments.metrics import ANSWERS, PROBLEMS, record
from deployments.middleware import ONE_PHOTO
from deployments.openapi import contract
from deployments.request_log import Entry, RequestLog, begin_entry, entry_of
from deployments.settings import Settings
from mlc_core.errors import PhotoFault
from mlc_core.labels import MAX_TOP_K, Choice

logger = logging.getLogger("ray.serve")

_Body = TypeVar("_Body")

_PAGE = Path(__file__).with_name("page.html")
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Classify(Protocol):
    """What the routes need of the way to the classifier; see grouping.Grouping."""

    async def classify(
        self, photo: bytes, choice: Choice, client_left: Callable[[], bool], entry: Entry
    ) -> bytes: ...

    async def classify_many(
        self, photos: list[bytes], choice: Choice, entry: Entry
    ) -> list[Answer]: ...


def build_api(
    photos: Classify,
    describe: Callable[[], Awaitable[Mapping[str, Any]]],
    not_ready: Callable[[], str | None],
    settings: Settings,
    request_log: RequestLog,
) -> Starlette:
    """The application.

    Args:
        describe: answers /v1/model.
        not_ready: why the service is not ready; None when it is.
    """
    limits, upload_timeout_s = settings.limits, settings.upload_timeout_s
    page, openapi = _PAGE.read_text(encoding="utf-8"), contract(settings)

    async def classify_batch(request: Request) -> Response:
        choice, entry = _choice(request), entry_of(request.scope)
        sent = await _read(body.many_photos(request, limits, upload_timeout_s), entry)
        entry.photos = len(sent)
        taken = [photo for photo in sent if isinstance(photo, bytes)]
        answered = iter(await photos.classify_many(taken, choice, entry))
        answers = (photo if isinstance(photo, Exception) else next(answered) for photo in sent)
        results = [_result(answer, entry) for answer in answers]
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
        return JSONResponse(openapi)

    async def refuse(request: Request, error: Exception) -> Response:
        return problems.answer(error, request, settings.retry_after_s)

    one_photo = _OnePhoto(photos, settings)
    routes = [
        Route("/", show_page),
        Route(ONE_PHOTO, one_photo, methods=["POST"]),
        Route("/v1/classify/batch", classify_batch, methods=["POST"]),
        Route("/v1/model", model),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/openapi.json", show_contract),
        *([Route("/metrics", _metrics)] if settings.metrics_endpoint else []),
    ]
    return _Api(
        one_photo,
        request_log,
        routes=routes,
        exception_handlers=dict.fromkeys(
            (RequestError, PhotoFault, ServiceError, HTTPException, ClientDisconnect, Exception),
            refuse,
        ),
    )


class _OnePhoto:
    """The route that nearly every request takes, as bare ASGI."""

    def __init__(self, photos: Classify, settings: Settings) -> None:
        self._photos, self._settings = photos, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, entry, settings = Request(scope, receive), entry_of(scope), self._settings
        try:
            choice = _choice(request)
            photo = await _read(
                body.one_photo(request, settings.limits, settings.upload_timeout_s), entry
            )
            entry.photos = 1
            # uvicorn stopped reading a body this long, and learns that a client left only when it
            # reads on, which asking makes it do.
            if len(photo) > HIGH_WATER_LIMIT // 2 and _hung_up(receive):
                raise ClientLeft("the client left before its photo was queued")
            answer = await self._photos.classify(photo, choice, partial(_hung_up, receive), entry)
        except Exception as error:  # whatever it is, the client gets its problem details
            response = problems.answer(error, request, settings.retry_after_s)
            entry.status = response.status_code
            await response(scope, receive, send)
            return
        entry.status = int(HTTPStatus.OK)
        headers = [(b"content-length", b"%d" % len(answer)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": entry.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


class _Api(Starlette):
    """Answers one photo before Starlette's middleware and router: an eighth of its time."""

    def __init__(
        self, one_photo: _OnePhoto, request_log: RequestLog, **routes_and_handlers: Any
    ) -> None:
        super().__init__(**routes_and_handlers)
        self._one_photo, self._request_log = one_photo, request_log
        self._paths = {route.path for route in self.routes if isinstance(route, Route)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        # Serve leaves its route_prefix in the path.
        entry, path = begin_entry(scope), scope["path"].removeprefix(scope.get("root_path", ""))
        entry.route = path if path in self._paths else "other"
        try:
            if path == ONE_PHOTO and scope["method"] == "POST":
                await self._one_photo(scope, receive, send)
            else:
                await super().__call__(scope, receive, _noting_status(send, entry))
        except asyncio.CancelledError:  # by Serve, when the client of a batch leaves
            entry.status, entry.problem = problems.CLIENT_LEFT
            record(PROBLEMS, 1, problem=entry.problem)
            raise
        finally:
            self._request_log.end(entry)


def _noting_status(send: Send, entry: Entry) -> Send:
    async def send_and_note(message: Message) -> None:
        if message["type"] == "http.response.start":
            entry.status = int(message["status"])
        await send(message)

    return send_and_note


async def _read(body: Awaitable[_Body], entry: Entry) -> _Body:
    """What a body brings, and how long it took to arrive."""
    began = time.monotonic()
    photos = await body
    entry.stages_s["read"] = time.monotonic() - began
    return photos


async def _metrics(_: Request) -> Response:
    return Response(await exposition(), media_type=CONTENT_TYPE_LATEST)


def _hung_up(receive: Receive) -> bool:
    """Whether a client whose request was read has left, asked of the server without waiting."""
    message = receive()
    try:
        message.send(None)  # type: ignore[attr-defined]  # an Awaitable to ASGI, a coroutine to uvicorn
    except StopIteration as answer:
        return bool(answer.value["type"] == "http.disconnect")
    except Exception:  # a connection that can't be read any more has nobody at its end
        logger.exception("a client can't be asked whether it is there")
        return True
    message.close()  # type: ignore[attr-defined]
    return False


def _choice(request: Request) -> Choice:
    """How the query asks for the labels to be chosen.

    Raises:
        MalformedRequest: a parameter that is no number, or out of its range.
    """
    if not request.scope["query_string"]:
        return Choice()
    query = request.query_params
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


def _result(answer: Answer, entry: Entry) -> bytes:
    """The JSON of one photo of a batch; its status is counted."""
    if isinstance(answer, bytes):
        status, result = int(HTTPStatus.OK), answer
    else:
        problem = problems.problem(answer, entry.request_id)
        status, result = problem["status"], json.dumps(problem).encode()
    record(ANSWERS, 1, route=entry.route, status=str(status))
    return result
