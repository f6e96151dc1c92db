"""The HTTP contract as a Starlette application. It knows nothing behind the dispatcher."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from deployments.errors import RequestError, ServiceError, WriteRefused
from deployments.http import bodies
from deployments.http.access import CLIENT, Access, profile_of, take_rest
from deployments.http.cors import Cors
from deployments.http.disconnects import Disconnects
from deployments.http.feedback import FEEDBACK, FeedbackRoute
from deployments.http.open_inference import INFER, OpenInferenceRoutes, in_protocol, route_of
from deployments.http.openapi import contract
from deployments.http.photo_route import CLASSIFY, ENTRY, PhotoRoute, Telemetry, count_photos
from deployments.http.problems import Problems
from deployments.http.query import choice_of
from deployments.http.similar import (
    CATALOG,
    PICTURE,
    PICTURES,
    PRODUCT,
    SIMILAR,
    WRITES,
    SimilarRoutes,
)
from deployments.messages import Answer
from deployments.pipeline.calls import SimilarClient
from deployments.pipeline.dispatcher import Dispatched, Dispatcher
from deployments.settings import Limits, Openness, Settings
from deployments.telemetry.exposition import exposition
from deployments.telemetry.request_log import Entry
from mlc_core.errors import PhotoFault

if TYPE_CHECKING:
    from deployments.telemetry.tracing import Headers

BATCH = "/v1/classify/batch"
_OF_PHOTOS = (CLASSIFY, BATCH, SIMILAR, INFER)
_WRITTEN = (CATALOG, PRODUCT, FEEDBACK)  # what only keys that may write can change
_PAGE = Path(__file__).with_name("page.html")
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def build_api(
    dispatcher: Dispatcher,
    describe: Callable[[], Awaitable[Mapping[str, Any]]],
    not_ready: Callable[[], str | None],
    settings: Settings,
    telemetry: Telemetry,
    disconnects: Disconnects,
    access: Access | None = None,
    products: SimilarClient | None = None,
    feedback: FeedbackRoute | None = None,
) -> Api:
    """The application.

    Args:
        describe: describes the model in service, as /v1/model answers it.
        not_ready: says why the service is not ready; None when it is.
        access: decides who may ask; everybody may if it is None.
        products: the shop's catalogue, if there is one.
        feedback: stores feedback, if there is a place for it.
    """
    page = _page_text(settings.limits, catalogue=products is not None)
    problems = Problems(settings.retry_after_s, telemetry.recorder)

    async def classify_batch(request: Request) -> Response:
        entry = request.scope[ENTRY]
        choice = choice_of(request.scope["query_string"], profile_of(request.scope))
        upload = bodies.Upload(request.scope, request.receive, settings.upload_timeout_s)
        sent = await bodies.many_photos(upload, settings.limits)
        entry.note_read()
        entry.photos = len(sent)
        client = take_rest(request.scope, len(sent))
        photos = [photo for photo in sent if isinstance(photo, bytes)]
        submitted = [dispatcher.submit(photo, choice, entry.request_id) for photo in photos]
        outcomes = iter(await dispatcher.wait_for_all(submitted))
        results = []
        for photo in sent:
            answer = photo if isinstance(photo, Exception) else _answer(next(outcomes), entry)
            status, result = _result(answer, entry, problems)
            count_photos(telemetry.recorder, entry.route, status, client)
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
        return JSONResponse(contract(settings, await describe()))

    async def refuse(request: Request, error: Exception) -> Response:
        response = problems.response(error, request.scope[ENTRY])
        status, headers, body = in_protocol(_path(request.scope), response)
        answer = Response(body, status)
        answer.raw_headers = headers
        return answer

    recent = feedback.recent if feedback else None
    photo_route = PhotoRoute(dispatcher, settings, problems, telemetry, disconnects, access, recent)
    endpoints = settings.endpoints
    routes: list[tuple[Openness, Route]] = [
        (endpoints.page, Route("/", show_page)),
        ("key", Route(CLASSIFY, photo_route, methods=["POST"])),
        ("key", Route(BATCH, classify_batch, methods=["POST"])),
        ("key", Route("/v1/model", model)),
        (endpoints.health, Route("/healthz", healthz)),
        (endpoints.health, Route("/readyz", readyz)),
        (endpoints.contract, Route("/openapi.json", show_contract)),
        (endpoints.metrics, Route("/metrics", _metrics)),
    ]
    routes += OpenInferenceRoutes(dispatcher, describe, not_ready, settings).routes()
    similar = SimilarRoutes(products, dispatcher, settings, problems).routes() if products else []
    routes += [("key", route) for route in similar]
    routes += [("key", feedback.route())] if feedback else []
    return Api(
        photo_route,
        telemetry,
        problems,
        access,
        frozenset(_route(route.path) for openness, route in routes if openness == "key"),
        settings.cors_origins,
        routes=[route for openness, route in routes if openness != "closed"],
        exception_handlers=dict.fromkeys(
            (RequestError, PhotoFault, ServiceError, HTTPException, Exception),
            refuse,
        ),
    )


class Api(Starlette):
    """The routes, and an entry in the request log for every request that comes through Serve.

    Args:
        with_key: the routes that need a key.
        cors_origins: origins whose pages may call the service.

    Attributes:
        photo_route: answers `POST /v1/classify`.
    """

    def __init__(
        self,
        photo_route: PhotoRoute,
        telemetry: Telemetry,
        problems: Problems,
        access: Access | None,
        with_key: frozenset[str],
        cors_origins: Sequence[str],
        **starlette: Any,
    ) -> None:
        super().__init__(**starlette)
        self._access, self._with_key = access, with_key
        # Around the check of keys: browsers send none with a preflight.
        self._answer = Cors(self._admit, cors_origins) if cors_origins else self._admit
        self.photo_route, self._problems = photo_route, problems
        self._request_log, self._tracing = telemetry.request_log, telemetry.tracing
        self._recorder = telemetry.recorder
        self._routes = {_route(route.path) for route in self.routes if isinstance(route, Route)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        # Serve leaves its route_prefix in the path. A slash at the end says nothing. Starlette
        # would redirect it, and behind TLS to the wrong scheme.
        path = _path(scope)
        scope["path"] = scope.get("root_path", "") + path
        ids = (value for name, value in scope["headers"] if name == b"x-request-id")
        route = _route(path)
        entry = scope[ENTRY] = self._request_log.begin(
            next(ids, b"").decode("latin-1"), route if route in self._routes else "other"
        )
        tracing = self._tracing if entry.route in _OF_PHOTOS else None
        extra = tracing.begin(entry, scope["headers"]) if tracing else ()
        try:
            await self._answer(scope, receive, _noting_status(send, entry, extra))
        except asyncio.CancelledError:  # by Serve, when the client leaves
            if not entry.problem:
                self._problems.client_left(entry)
            raise
        finally:
            if entry.route == SIMILAR or (entry.route == INFER and entry.photos):
                photos = entry.photos if entry.route == INFER else 1
                count_photos(self._recorder, route, entry.status, scope.get(CLIENT), photos)
            self._request_log.end(entry)
            if tracing:
                tracing.end(entry)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        entry = scope[ENTRY]
        writes = entry.route in _WRITTEN and scope["method"] in WRITES
        photos = writes or (scope["method"] == "POST" and entry.route in _OF_PHOTOS)
        refusal: RequestError | None = None
        client = None
        if self._access is not None and entry.route in self._with_key:
            refusal = self._access.refusal(scope, photos=photos, writes=writes)
            client = scope.get(CLIENT)
            entry.key = client.name if client else ""
        elif writes:
            refusal = WriteRefused(
                "writing needs a key, and the service has none; the operator sets keys_file, and "
                "adds a key with `mlc keys add --writes`"
            )
        if refusal:
            response = await self.photo_route.turned_away(refusal, entry)
            if entry.route in (CLASSIFY, BATCH, INFER):
                self.photo_route.count(entry, client)
            await in_protocol(_path(scope), response).send(send)
            return
        if client and photos:
            client.take(1)
        await super().__call__(scope, receive, send)


def _page_text(limits: Limits, *, catalogue: bool) -> str:
    most = (
        f'data-max-photos="{limits.max_request_photos}" data-max-bytes="{limits.max_request_bytes}"'
    )
    body = f"<body {most} data-catalogue>" if catalogue else f"<body {most}>"
    return _PAGE.read_text(encoding="utf-8").replace("<body>", body)


def _route(path: str) -> str:
    """The name of a path in metrics and logs."""
    if path.startswith(f"{CATALOG}/"):
        return PRODUCT
    return PICTURE if path.startswith(f"{PICTURES}/") else route_of(path)


def _path(scope: Scope) -> str:
    """The path of a request, without the prefix of the application and a slash at the end."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")).rstrip("/") or "/"


def _noting_status(send: Send, entry: Entry, extra: Headers) -> Send:
    async def send_and_note(message: Message) -> None:
        if message["type"] == "http.response.start":
            entry.status = int(message["status"])
            message["headers"] = [*message.get("headers", ()), *extra]
        await send(message)

    return send_and_note


def _answer(outcome: Dispatched | Exception, entry: Entry) -> Answer:
    """The answer to a photo. Notes where its time went."""
    if isinstance(outcome, Exception):
        return outcome
    entry.note(outcome.stage, outcome.waited_s, outcome.trace)
    return outcome.answer


def _result(answer: Answer, entry: Entry, problems: Problems) -> tuple[int, bytes]:
    """The status and the JSON of one photo of a batch request."""
    if isinstance(answer, bytes):
        return int(HTTPStatus.OK), answer
    details = problems.details(answer, entry.request_id)
    return details["status"], msgspec.json.encode(details)


async def _metrics(_: Request) -> Response:
    return Response(await exposition(), media_type=CONTENT_TYPE_LATEST)
