"""`POST /v1/classify`, which nearly every request asks for: what becomes of it, in order.

In an ingress replica a request comes straight from uvicorn, by `middleware.ShortCut`. Elsewhere it
comes through Serve, as for every other route.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, NamedTuple

from starlette.types import Receive, Scope, Send

from deployments.http import bodies
from deployments.http.disconnects import Disconnects
from deployments.http.problems import Problems, RawResponse
from deployments.http.query import choice_of
from deployments.pipeline.dispatcher import Dispatcher
from deployments.settings import Settings
from deployments.telemetry.catalogue import PHOTOS_ANSWERED
from deployments.telemetry.recorder import Recorder
from deployments.telemetry.request_log import Entry, RequestLog

CLASSIFY = "/v1/classify"
ENTRY = "mlc.request_log_entry"  # in the ASGI scope of a request that came through Serve
_OK = int(HTTPStatus.OK)
_JSON = (b"content-type", b"application/json")


class Telemetry(NamedTuple):
    """Where the routes report to."""

    recorder: Recorder
    request_log: RequestLog


class PhotoRoute:
    """Answers requests for the labels of one photo."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        settings: Settings,
        problems: Problems,
        telemetry: Telemetry,
        disconnects: Disconnects,
    ) -> None:
        self._dispatcher, self._problems, self._disconnects = dispatcher, problems, disconnects
        self._recorder, self._request_log = telemetry
        self._limits, self._upload_timeout_s = settings.limits, settings.upload_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that came through Serve, which adds its id to the response."""
        try:
            await _send(send, await self._response(scope, receive, scope[ENTRY]))
        finally:
            self._count(scope[ENTRY])

    async def answer_directly(
        self, request_id: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer a request that Serve has not seen.

        Args:
            request_id: the response carries it.
        """
        entry = self._request_log.begin(request_id.decode("latin-1"), CLASSIFY)
        try:
            response = await self._response(scope, receive, entry)
            response.headers.append((b"x-request-id", request_id))
            await _send(send, response)
        finally:
            self._count(entry)
            self._request_log.end(entry)

    def _count(self, entry: Entry) -> None:
        status = str(entry.status)
        self._recorder.record(PHOTOS_ANSWERED, 1, route=CLASSIFY, status=status)

    async def _response(self, scope: Scope, receive: Receive, entry: Entry) -> RawResponse:
        """The response, a problem if there is an error. Notes in `entry` what happened."""
        try:
            upload = bodies.Upload(scope, receive, self._upload_timeout_s)
            self._dispatcher.admit(upload.declared_bytes)
            choice = choice_of(scope["query_string"])
            photo = await bodies.one_photo(upload, self._limits)
            entry.note_read()
            entry.photos = 1
            submitted = self._dispatcher.submit(photo, choice, entry.request_id)
            with self._disconnects.watching(receive, submitted):
                outcome = await self._dispatcher.wait(submitted)
            entry.note(outcome.stage, outcome.waited_s, outcome.trace)
            answer = outcome.answer
            if isinstance(answer, Exception):
                raise answer
        except asyncio.CancelledError:  # by Serve, when the client leaves
            self._problems.client_left(entry)
            raise
        except Exception as error:  # the client gets problem details for any error
            return self._problems.response(error, entry)
        entry.status = _OK
        return RawResponse(_OK, [(b"content-length", b"%d" % len(answer)), _JSON], answer)


async def _send(send: Send, response: RawResponse) -> None:
    """Have uvicorn send the head of a response together with its body.

    By default it writes them one after the other: two system calls, and two TCP segments.
    """
    cycle: Any = getattr(send, "__self__", None)  # uvicorn's object for this request
    if hasattr(cycle, "transport"):
        cycle.transport = _HeadHeld(cycle)
    status, headers, body = response
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _HeadHeld:
    """A transport whose first write waits for the second."""

    def __init__(self, cycle: Any) -> None:
        self._cycle, self._transport = cycle, cycle.transport
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        if self._head is None:
            self._head = data
        else:
            self._cycle.transport = self._transport
            self._transport.write(self._head + data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
