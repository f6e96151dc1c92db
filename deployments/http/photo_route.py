"""`POST /v1/classify`, which nearly every request asks for: what becomes of it, in order.

In an ingress replica a request comes straight from uvicorn, by `middleware.ShortCut`. Elsewhere it
comes through Serve, as for every other route.
"""

from __future__ import annotations

import asyncio
import math
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from starlette.types import Receive, Scope, Send

from deployments.errors import Overloaded, RequestError
from deployments.http import bodies, haproxy
from deployments.http.access import CLIENT, Access, Client, profile_of
from deployments.http.cors import Cors
from deployments.http.disconnects import Disconnects
from deployments.http.problems import Problems
from deployments.http.query import choice_of
from deployments.http.recent_photos import RecentPhotos
from deployments.http.response import RawResponse, linger
from deployments.pipeline.dispatcher import Dispatcher
from deployments.settings import Settings
from deployments.telemetry.catalogue import KEY_PHOTOS, PHOTOS_ANSWERED
from deployments.telemetry.recorder import Recorder
from deployments.telemetry.request_log import Entry, RequestLog

if TYPE_CHECKING:
    from deployments.telemetry.tracing import Tracing

CLASSIFY = "/v1/classify"
ENTRY = "mlc.request_log_entry"  # in the ASGI scope of a request that came through Serve
_PAUSE_S = 0.04
_HAPROXY_REFUSES_FOR_S = 0.2  # at most
_OK, _UNAVAILABLE = int(HTTPStatus.OK), int(HTTPStatus.SERVICE_UNAVAILABLE)
_JSON = (b"content-type", b"application/json")


class Telemetry(NamedTuple):
    """Where the routes report to."""

    recorder: Recorder
    request_log: RequestLog
    tracing: Tracing | None = None


def count_photos(
    recorder: Recorder, route: str, status: int, client: Client | None, photos: int = 1
) -> None:
    """Count photos that were answered, for the service and for the client's key."""
    recorder.record(PHOTOS_ANSWERED, photos, route=route, status=str(status))
    if client is not None:
        recorder.record(KEY_PHOTOS, photos, key=client.name, status=str(status))


class PhotoRoute:
    """Answers requests for the labels of one photo."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        settings: Settings,
        problems: Problems,
        telemetry: Telemetry,
        disconnects: Disconnects,
        access: Access | None = None,
        recent: RecentPhotos | None = None,
    ) -> None:
        self._dispatcher, self._problems, self._disconnects = dispatcher, problems, disconnects
        self._recorder, self._request_log, self._tracing = telemetry
        self._access, self._recent = access, recent
        self._cors = Cors(self, settings.cors_origins) if settings.cors_origins else None
        self._pause_began, self._pause_over = float("-inf"), asyncio.Event()
        self._haproxy_refuses_until = float("-inf")
        self._haproxy_refuses_below = min(settings.large_photo_bytes, haproxy.LARGEST_REFUSED_BYTES)
        self._limits, self._upload_timeout_s = settings.limits, settings.upload_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that came through Serve, which adds its id to the response."""
        entry = scope[ENTRY]
        try:
            upload = bodies.Upload(scope, receive, self._upload_timeout_s)
            response = await self._response(scope, upload, receive, entry)
            await response.send(send)
        finally:
            self.count(entry, scope.get(CLIENT))

    async def answer_directly(
        self, request_id: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer a request that Serve has not seen.

        Args:
            request_id: the response carries it.
        """
        upload = bodies.Upload(scope, receive, self._upload_timeout_s)
        if upload.refused_before:
            count_photos(self._recorder, CLASSIFY, _UNAVAILABLE, None, upload.refused_before)
            self._problems.refused_by_haproxy(upload.refused_before)
        client, turned_away = None, None
        if self._access is not None:
            turned_away = self._access.refusal(scope, photos=True)
            client = scope.get(CLIENT)
        if not turned_away and (refusal := self._dispatcher.refusal(upload.declared_bytes)):
            await self._refuse(refusal, upload, request_id, scope, send)
            await linger(send)
            return
        entry = self._request_log.begin(request_id.decode("latin-1"), CLASSIFY)
        extra = self._tracing.begin(entry, scope["headers"]) if self._tracing else ()
        try:
            if client is not None:
                entry.key = client.name
            if turned_away:
                response = await self.turned_away(turned_away, entry)
            else:
                if client is not None:
                    client.take(1)
                response = await self._response(scope, upload, receive, entry)
            response.headers.extend(extra)
            await self._send(response, request_id, scope, send)
        finally:
            self.count(entry, client)
            self._request_log.end(entry)
            if self._tracing:
                self._tracing.end(entry)
        if entry.status != _OK:
            await linger(send)

    async def turned_away(self, refusal: RequestError, entry: Entry) -> RawResponse:
        """The response to a request that keys or rates refuse, after a pause."""
        await self._pause()
        return self._problems.response(refusal, entry)

    def count(self, entry: Entry, client: Client | None) -> None:
        """Count the photo of a request that ends."""
        count_photos(self._recorder, entry.route, entry.status, client)

    async def _send(
        self, response: RawResponse, request_id: bytes, scope: Scope, send: Send
    ) -> None:
        response.headers.append((b"x-request-id", request_id))
        if self._cors is not None:
            await self._cors.add_to(response.headers, scope)
        await response.send(send)

    async def _refuse(
        self,
        refusal: Overloaded,
        upload: bodies.Upload,
        request_id: bytes,
        scope: Scope,
        send: Send,
    ) -> None:
        """Refuse a photo before it is read, at once if that has HAProxy refuse the next ones.

        HAProxy does so until about a quarter of the queue has left.
        """
        began = time.monotonic()
        response = self._problems.refusal(refusal, request_id)
        if (
            began < self._haproxy_refuses_until
            or upload.declared_bytes >= self._haproxy_refuses_below
        ):
            await self._pause()
        else:
            wait_s = self._dispatcher.expected_wait_s(upload.declared_bytes)
            for_s = min(wait_s / 4, _HAPROXY_REFUSES_FOR_S)
            self._haproxy_refuses_until = began + for_s
            response.headers.extend(
                (
                    (haproxy.REFUSE_MS, b"%d" % math.ceil(1000 * for_s)),
                    (haproxy.REFUSE_BELOW_BYTES, b"%d" % self._haproxy_refuses_below),
                )
            )
        await self._send(response, request_id, scope, send)
        count_photos(self._recorder, CLASSIFY, response.status, scope.get(CLIENT))
        self._request_log.refused(CLASSIFY, response.status, time.monotonic() - began)

    async def _pause(self) -> None:
        """Wait before a refusal, so that clients that retry at once take no core from others.

        Those who come within a sixth of the pause share one timer.
        """
        loop = asyncio.get_running_loop()
        if loop.time() - self._pause_began > _PAUSE_S / 6:
            self._pause_began, self._pause_over = loop.time(), asyncio.Event()
            loop.call_later(_PAUSE_S, self._pause_over.set)
        await self._pause_over.wait()

    async def _response(
        self, scope: Scope, upload: bodies.Upload, receive: Receive, entry: Entry
    ) -> RawResponse:
        """The response, a problem if there is an error. Notes in `entry` what happened."""
        try:
            choice = choice_of(scope["query_string"], profile_of(scope))
            photo = await bodies.one_photo(upload, self._limits)
            entry.note_read()
            entry.photos = 1
            if self._recent is not None:
                self._recent.remember(entry.request_id, photo)
            submitted = self._dispatcher.submit(photo, choice, entry.request_id)
            with self._disconnects.watching(receive, submitted):
                outcome = await self._dispatcher.wait(submitted)
            entry.note(outcome.stage, outcome.waited_s, outcome.trace)
            answer = outcome.answer
        except asyncio.CancelledError:  # by Serve, when the client leaves
            self._problems.client_left(entry)
            raise
        except Exception as error:  # the client gets problem details for any error
            return self._problems.response(error, entry)
        if isinstance(answer, Exception):
            # It is not raised: it would hold this frame, and so itself and the photo.
            return self._problems.response(answer, entry)
        entry.status = _OK
        return RawResponse(_OK, [(b"content-length", b"%d" % len(answer)), _JSON], answer)
