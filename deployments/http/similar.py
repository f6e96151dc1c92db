"""Similar products, and the catalogue that they come from: `/v1/similar` and `/v1/catalog`.

A photo goes through the same pipeline as for its labels, once, and comes back with its embedding.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.errors import DeadlinePassed, MalformedRequest
from deployments.http import bodies
from deployments.http.access import profile_of, take_rest
from deployments.http.photo_route import ENTRY
from deployments.http.problems import Problems
from deployments.http.products import Write, many_products, one_product, product_id
from deployments.http.query import search_of
from deployments.messages import Change, Embedded, Search
from deployments.pipeline.calls import SimilarClient
from deployments.pipeline.dispatcher import Dispatched, Dispatcher
from deployments.settings import Settings
from deployments.telemetry.request_log import Entry
from mlc_core.catalog.picture import MEDIA_TYPE
from mlc_core.labels import Choice

SIMILAR, CATALOG, PICTURES = "/v1/similar", "/v1/catalog", "/v1/pictures"
PRODUCT, PICTURE = f"{CATALOG}/{{id}}", f"{PICTURES}/{{id}}"
WRITES = ("POST", "PUT", "DELETE")  # methods that change the catalogue
_PRODUCT_PATH = f"{CATALOG}/{{id:path}}"  # an id may have a slash
_PICTURE_PATH = f"{PICTURES}/{{id:path}}"
_EMBEDDED = Choice(embedding=True)
Outcome = TypeVar("Outcome")
_LATE = "no answer within the deadline of a request; try again"


class _Label(msgspec.Struct):
    label: str | None


class _Embedding(msgspec.Struct):
    digest: str
    vector: list[float]


class _Answer(msgspec.Struct):
    """What the pipeline answers to a photo; see mlc_core.labels."""

    model: msgspec.Raw
    labels: msgspec.Raw
    embedding: _Embedding

    def embedded(self) -> Embedded:
        labels = msgspec.json.decode(self.labels, type=dict[str, _Label])
        return Embedded(
            self.embedding.digest,
            self.embedding.vector,
            {head: each.label for head, each in labels.items() if each.label is not None},
        )


_decoder = msgspec.json.Decoder(_Answer)


class SimilarRoutes:
    """Answers searches, and changes the catalogue."""

    def __init__(
        self,
        products: SimilarClient,
        dispatcher: Dispatcher,
        settings: Settings,
        problems: Problems,
    ) -> None:
        self._products, self._dispatcher, self._problems = products, dispatcher, problems
        self._limits, self._upload_timeout_s = settings.limits, settings.upload_timeout_s
        self._deadline_s = settings.deadline_s

    def routes(self) -> list[Route]:
        """The routes; all need a key, if there are keys."""
        return [
            Route(SIMILAR, self._search, methods=["POST"]),
            Route(CATALOG, self._describe, methods=["GET"]),
            Route(CATALOG, self._change_many, methods=["POST"]),
            Route(_PRODUCT_PATH, self._get, methods=["GET"]),
            Route(_PRODUCT_PATH, self._put, methods=["PUT"]),
            Route(_PRODUCT_PATH, self._remove, methods=["DELETE"]),
            Route(_PICTURE_PATH, self._picture, methods=["GET"]),
        ]

    async def _search(self, request: Request) -> Response:
        entry = request.scope[ENTRY]
        wanted = search_of(request.scope["query_string"], profile_of(request.scope))
        upload = self._upload(request)
        if wanted.id:
            if await upload.read(self._limits.max_photo_bytes):
                raise MalformedRequest("there are an id and a body; send an id or a photo")
            entry.note_read()
            search = Search(None, product_id(wanted.id), wanted.k, wanted.filters)
            async with self._deadline():
                products = _value(await self._products.search(search))
            return _json(b'{"products":%b}' % products)
        photo = await bodies.one_photo(upload, self._limits)
        entry.note_read()
        async with self._deadline():
            (answer,) = map(_value, await self._embed([photo], entry, wanted.choice))
            search = Search(answer.embedded(), "", wanted.k, wanted.filters)
            products = _value(await self._products.search(search))
        labels = b',"labels":%b' % bytes(answer.labels) if wanted.labels else b""
        return _json(b'{"model":%b%b,"products":%b}' % (bytes(answer.model), labels, products))

    async def _describe(self, _: Request) -> Response:
        async with self._deadline():
            return _json(_value(await self._products.describe()))

    async def _get(self, request: Request) -> Response:
        name = product_id(request.path_params["id"])
        async with self._deadline():
            return _json(_value(await self._products.get(name)))

    async def _picture(self, request: Request) -> Response:
        name = product_id(request.path_params["id"])
        async with self._deadline():
            picture = _value(await self._products.picture(name))
        headers = {"Cache-Control": "private, max-age=60", "X-Content-Type-Options": "nosniff"}
        return Response(picture, media_type=MEDIA_TYPE, headers=headers)

    async def _put(self, request: Request) -> Response:
        upload = self._upload(request)
        write = await one_product(request.path_params["id"], upload, self._limits)
        return await self._written(write, request.scope[ENTRY])

    async def _remove(self, request: Request) -> Response:
        write = Write(product_id(request.path_params["id"]), removes=True)
        return await self._written(write, request.scope[ENTRY])

    async def _written(self, write: Write, entry: Entry) -> Response:
        (outcome,) = await self._write([write], entry)
        return JSONResponse({"id": write.id, "outcome": _value(outcome)})

    async def _change_many(self, request: Request) -> Response:
        entry = request.scope[ENTRY]
        writes = await many_products(self._upload(request), self._limits)
        take_rest(request.scope, max(1, sum(write.photo is not None for write in writes)))
        results = []
        for write, outcome in zip(writes, await self._write(writes, entry), strict=True):
            if isinstance(outcome, Exception):
                results.append({"id": write.id} | self._problems.details(outcome, entry.request_id))
            else:
                results.append({"id": write.id, "outcome": outcome})
        return JSONResponse({"results": results})

    async def _write(self, writes: Sequence[Write], entry: Entry) -> list[str | Exception]:
        """Make changes of different products; returns the outcome of each, in order."""
        entry.note_read()
        photos = {write.id: write.photo for write in writes if write.photo is not None}
        async with self._deadline():
            answers = await self._embed(list(photos.values()), entry)
            seen = dict(zip(photos, answers, strict=True))
            changes = [
                _change(write, seen.get(write.id))
                for write in writes
                if not isinstance(seen.get(write.id), Exception)
            ]
            made = await self._products.change(changes) if changes else []
        outcomes = dict(zip((change.id for change in changes), made, strict=True))
        return [outcomes.get(write.id) or seen[write.id] for write in writes]  # type: ignore[misc]

    async def _embed(
        self, photos: Sequence[bytes], entry: Entry, choice: Choice = _EMBEDDED
    ) -> list[_Answer | Exception]:
        """What the pipeline answers to photos, or why it does not."""
        entry.photos = len(photos)
        submitted = [self._dispatcher.submit(photo, choice, entry.request_id) for photo in photos]
        return [
            _noted(outcome, entry) for outcome in await self._dispatcher.wait_for_all(submitted)
        ]

    def _upload(self, request: Request) -> bodies.Upload:
        return bodies.Upload(request.scope, request.receive, self._upload_timeout_s)

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._deadline_s):
                yield
        except TimeoutError as error:
            raise DeadlinePassed(_LATE) from error


def _noted(outcome: Dispatched | Exception, entry: Entry) -> _Answer | Exception:
    """The answer to a photo. Notes where its time went."""
    if isinstance(outcome, Exception):
        return outcome
    entry.note(outcome.stage, outcome.waited_s, outcome.trace)
    answer = outcome.answer
    return answer if isinstance(answer, Exception) else _decoder.decode(answer)


def _change(write: Write, answer: _Answer | Exception | None) -> Change:
    embedded = answer.embedded() if isinstance(answer, _Answer) else None
    return Change(write.id, embedded, write.photo or b"", write.attributes, write.removes)


def _value(outcome: Outcome | Exception) -> Outcome:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
