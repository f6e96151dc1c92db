"""The deployment of similar products: searches the shop's catalogue, and changes it.

A place may hold several catalogues, one for the embedding of each model. A photo is looked for in
that of its own embedding. So a roll-out of another model needs no step of its own here: its
catalogue, built beside the old one, is searched as soon as its first photo comes.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from threading import Lock
from typing import Any, TypeVar

import msgspec
import numpy as np

from deployments.errors import CatalogUnready, ProductUnknown, ServiceError, Unavailable
from deployments.messages import Change, Embedded, Search
from deployments.pipeline.memory import keep_trimming
from deployments.settings import Settings
from deployments.telemetry.catalogue import (
    CATALOG_AGE,
    CATALOG_PRODUCTS,
    CATALOG_WRITES,
    STAGE_DURATION,
)
from deployments.telemetry.recorder import Recorder
from mlc_core.catalog.catalog import Catalog, CatalogError, Hit, Product
from mlc_core.catalog.filters import Value
from mlc_core.catalog.opening import found, open_catalog
from mlc_core.catalog.picture import picture_of
from mlc_core.photo import decode
from mlc_core.spec import DEFAULT_IMAGE_SIZE, Embedding

logger = logging.getLogger("ray.serve")

_THREADS = 8  # a database keeps them waiting; in memory, a search holds one for a millisecond
_FOLLOW_EVERY_S, _MEASURE_EVERY_S = 0.5, 5.0
_LOOK_EVERY_S = 1.0  # for catalogues, at most; a database is asked anew each time
_Result = TypeVar("_Result")


class SimilarProducts:
    """Answers searches, and changes products, of the catalogues of one place.

    If the place can't be reached, it answers Unavailable until it can. Labels do not depend on it.
    """

    def __init__(self, settings: Settings, recorder: Recorder | None = None) -> None:
        if settings.catalog_place is None:
            raise ValueError("SimilarProducts needs `catalog` among the settings")
        self._place = settings.catalog_place
        self._recorder = recorder or Recorder()
        self._catalogs: dict[str, Catalog] = {}
        self._gone: list[Catalog] = []  # to be closed at the next look: searches may still use them
        self._sizes: list[dict[str, Any]] = []
        self._opening, self._writing = Lock(), Lock()
        self._looked_at = self._measured_at = float("-inf")
        self._fault = ""  # why the place can't be reached
        self._try(self._look_for_catalogs)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="catalogue")
        loop = asyncio.get_running_loop()
        self._background = [
            loop.create_task(work, context=contextvars.Context())
            for work in (
                self._recorder.export(self._set_gauges),
                self._keep_following(),
                keep_trimming(),
            )
        ]

    async def search(self, search: Search) -> bytes | Exception:
        """The products that look like a photo: JSON, the most similar first.

        Returns:
            The list, or CatalogUnready, ProductUnknown or Unavailable.
        """
        return await self._run("search", self._search, search)

    async def change(self, changes: Sequence[Change]) -> list[str | Exception]:
        """Change products. What is done is on the disk when this returns.

        Returns:
            For each change, in order: added, replaced, changed or removed, or CatalogUnready,
            ProductUnknown or Unavailable.
        """
        outcomes = await self._run("write", self._change, changes)
        return [outcomes] * len(changes) if isinstance(outcomes, Exception) else outcomes

    async def get(self, name: str) -> bytes | Exception:
        """A product as JSON, or ProductUnknown or Unavailable."""
        return await self._run("read", self._get, name)

    async def picture(self, name: str) -> bytes | Exception:
        """The picture of a product, or ProductUnknown or Unavailable."""
        return await self._run("read", self._picture, name)

    async def describe(self) -> bytes | Exception:
        """The catalogues as JSON: number of products, time of the last write, embedding."""
        return await self._run("read", self._describe)

    async def _run(
        self, stage: str, work: Callable[..., _Result], *arguments: Any
    ) -> _Result | Unavailable:
        began = time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        except CatalogError as error:
            logger.error("the catalogue does not answer: %s", error)
            return Unavailable("the catalogue does not answer; try again")
        finally:
            self._recorder.record(STAGE_DURATION, time.monotonic() - began, stage=stage)

    def _search(self, search: Search) -> bytes | Exception:
        if search.embedded is not None:
            catalog = self._catalog_of(search.embedded)
            if isinstance(catalog, Exception):
                return catalog
            return _as_json(catalog.search(_vector(search.embedded), search.k, search.filters))
        latest = self._latest()
        product = _found(latest, search.id)
        if latest is None or product is None:
            return _unknown(search.id)
        hits = latest.search(product.vector, search.k + 1, search.filters)
        return _as_json([hit for hit in hits if hit.id != search.id][: search.k])

    def _describe(self) -> bytes:
        return msgspec.json.encode({"catalogues": self._measure()})

    def _measure(self) -> list[dict[str, Any]]:
        return [
            {"embedding": digest, "products": len(each), "written_at": each.written_at()}
            for digest, each in self._all()
        ]

    def _get(self, name: str) -> bytes | Exception:
        product = _found(self._latest(), name)
        if product is None:
            return _unknown(name)
        return msgspec.json.encode(
            {"id": name, "labels": product.labels, "attributes": product.attributes}
        )

    def _picture(self, name: str) -> bytes | Exception:
        catalog = self._latest()
        picture = None if catalog is None else catalog.picture(name)
        return picture or _unknown(name)

    def _change(self, changes: Sequence[Change]) -> list[str | Exception]:
        # One call at a time: what a change leaves as it is must not change meanwhile.
        with self._writing:
            refusals = [
                self._catalog_of(each.embedded, new=True) if each.embedded else None
                for each in changes
            ]
            outcomes: list[str | Exception] = [
                each if isinstance(each, Exception) else "" for each in refusals
            ]
            for digest, catalog in self._all():
                self._change_catalog(digest, catalog, changes, outcomes)
        outcomes = [
            outcome or _unknown(change.id, "it may have been removed; a photo of it adds it")
            for outcome, change in zip(outcomes, changes, strict=True)
        ]
        for outcome in outcomes:
            kind = outcome if isinstance(outcome, str) else "refused"
            self._recorder.record(CATALOG_WRITES, 1, outcome=kind)
        return outcomes

    @staticmethod
    def _change_catalog(
        digest: str, catalog: Catalog, changes: Sequence[Change], outcomes: list[str | Exception]
    ) -> None:
        """Make the changes that concern a catalogue, and note the outcome of each."""
        before = catalog.get([change.id for change in changes])
        puts, removed = list[Product](), list[str]()
        for at, change in enumerate(changes):
            product, embedded = before.get(change.id), change.embedded
            if isinstance(outcomes[at], Exception):
                continue
            if embedded is not None and embedded.digest == digest:
                attributes = change.attributes
                if attributes is None:
                    attributes = product.attributes if product else {}
                puts.append(_product(change.id, embedded, change.photo, attributes))
                outcomes[at] = "replaced" if product else "added"
            elif product is not None and change.removes:
                removed.append(change.id)
                outcomes[at] = "removed"
            elif product is not None and change.attributes is not None:
                puts.append(product._replace(attributes=change.attributes))
                outcomes[at] = outcomes[at] or "changed"
        if puts:
            catalog.put(puts)
        if removed:
            catalog.remove(removed)

    def _catalog_of(self, embedded: Embedded, *, new: bool = False) -> Catalog | ServiceError:
        """The catalogue of an embedding, or CatalogUnready or Unavailable.

        Args:
            new: whether to begin one if the place has none at all.
        """
        catalog = self._catalogs.get(embedded.digest)
        if catalog is None:
            self._look_for_catalogs()
            catalog = self._catalogs.get(embedded.digest)
        if catalog is None and new and not self._catalogs:
            embedding = Embedding(len(embedded.vector), embedded.digest)
            with self._opening:
                catalog = self._catalogs.setdefault(
                    embedded.digest, open_catalog(self._place, embedding)
                )
        if catalog is not None:
            return catalog
        if self._fault:
            return Unavailable("the catalogue does not answer; try again")
        others = ", ".join(digest[:12] for digest in self._catalogs) or "none"
        return CatalogUnready(
            f"the catalogue has no products that the model in service embedded "
            f"({embedded.digest[:12]}; it has {others}); the operator indexes them with "
            "`mlc index`"
        )

    def _latest(self) -> Catalog | None:
        """The catalogue that was written last; None if there is none.

        Raises:
            CatalogError: the place can't be reached.
        """
        catalogs = [catalog for _, catalog in self._all()]
        if not catalogs and self._fault:
            raise CatalogError(self._fault)
        if len(catalogs) == 1:
            return catalogs[0]
        return max(catalogs, key=lambda each: each.written_at() or 0.0, default=None)

    def _all(self) -> list[tuple[str, Catalog]]:
        return list(self._catalogs.items())  # another thread may open one meanwhile

    def _look_for_catalogs(self) -> None:
        """Open the catalogues that are new, and let go of those that are gone."""
        with self._opening:
            if time.monotonic() < self._looked_at + _LOOK_EVERY_S:
                return
            self._looked_at = time.monotonic()
            there = {each.digest: each for each in found(self._place)}
            for digest, embedding in there.items():
                if digest not in self._catalogs:
                    self._catalogs[digest] = open_catalog(self._place, embedding)
                    logger.info("catalogue of embedding %s opened", digest[:12])
            for catalog in self._gone:
                catalog.close()
            gone = self._catalogs.keys() - there.keys()
            self._gone = [self._catalogs.pop(digest) for digest in gone]

    def _follow(self) -> None:
        self._look_for_catalogs()
        for _, catalog in self._all():
            catalog.follow()
        if time.monotonic() > self._measured_at + _MEASURE_EVERY_S:
            self._measured_at = time.monotonic()
            self._sizes = self._measure()

    async def _keep_following(self) -> None:
        while True:
            await asyncio.to_thread(self._try, self._follow)
            await asyncio.sleep(_FOLLOW_EVERY_S)

    def _try(self, work: Callable[[], None]) -> None:
        """Do something that fails if the catalogue can't be reached; the log says what is new."""
        try:
            work()
            self._fault = ""
        except CatalogError as error:
            if self._fault != str(error):
                logger.error("%s", error)
            self._fault = str(error)

    def _set_gauges(self) -> None:
        now = time.time()
        for each in self._sizes:
            embedding = each["embedding"][:12]
            self._recorder.record(CATALOG_PRODUCTS, each["products"], embedding=embedding)
            if each["written_at"] is not None:
                self._recorder.record(CATALOG_AGE, now - each["written_at"], embedding=embedding)


def _as_json(hits: Sequence[Hit]) -> bytes:
    return msgspec.json.encode(
        [
            {
                "id": hit.id,
                "similarity": round(min(hit.similarity, 1.0), 4),  # stored in half precision
                "labels": hit.labels,
                "attributes": hit.attributes,
            }
            for hit in hits
        ]
    )


def _found(catalog: Catalog | None, name: str) -> Product | None:
    return None if catalog is None else catalog.get([name]).get(name)


def _vector(embedded: Embedded) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = np.asarray(embedded.vector, np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)  # it was rounded on its way


def _product(
    name: str, embedded: Embedded, photo: bytes, attributes: Mapping[str, Value]
) -> Product:
    picture = picture_of(decode(photo, DEFAULT_IMAGE_SIZE))
    vector, digest = _vector(embedded), sha256(photo).digest()
    return Product(name, vector, embedded.labels, attributes, digest, picture)


def _unknown(name: str, advice: str = "it may have been removed") -> ProductUnknown:
    return ProductUnknown(f"the catalogue has no product {name[:80]!r}; {advice}")
