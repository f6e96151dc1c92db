"""Embeds and names a shop's products, and keeps them in a store. A run that was killed goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlc_core.artifact import Artifact
from mlc_core.catalog.catalog import Product
from mlc_core.catalog.opening import indexing
from mlc_core.catalog.picture import picture_of
from mlc_core.catalog.source import Item, fault_of, opened_source
from mlc_core.engines.engine import Engine
from mlc_core.errors import ArtifactError, PhotoFault
from mlc_core.labels import Choice, Labeller
from mlc_core.photo import decode
from mlc_core.sources.files import Progress, Read, Unreadable
from mlc_core.sources.table import Skips
from mlc_core.spec import EMBEDDING, Spec

_BATCH = 256
_REPORT_EVERY = 20  # batches


class Indexed(NamedTuple):
    """What became of the products of a source.

    Attributes:
        unchanged: they were in the catalogue already, as they are.
        elsewhere: products of the catalogue that the source does not have; they stay.
    """

    added: int
    unchanged: int
    skipped: int
    elsewhere: int


class _Photo(NamedTuple):
    item: Item
    digest: bytes
    image: NDArray[np.uint8]  # (height_px, width_px, 3)


def index_source(
    source: Path, index: str, artifact: Artifact, engine: Engine, report: Progress = print
) -> Indexed:
    """Bring a catalogue up to what a source says.

    Args:
        index: where the catalogue is; see `opening`.

    Raises:
        DataSetError: there are no products at `source`.
        CatalogError: the catalogue can't be opened.
        ArtifactError: the model has no embedding.
    """
    spec = artifact.spec
    if spec.embedding is None:
        raise ArtifactError(f"{artifact.path} has no embedding; train a model that has one")
    added = unchanged = 0
    skips = Skips()
    with (
        opened_source(source, report) as products,
        indexing(index, spec.embedding) as catalog,
        ThreadPoolExecutor() as pool,
    ):
        items = _usable(products.items, skips)
        for number, start in enumerate(range(0, len(items), _BATCH), start=1):
            batch = items[start : start + _BATCH]
            known = catalog.get([item.row.id for item in batch])
            before = [known.get(item.row.id) for item in batch]
            read = list(pool.map(partial(_read, products.read, spec), batch, before))
            for item, each in zip(batch, read, strict=True):
                if isinstance(each, str):
                    skips.add(each, item.row)
            changed = [each for each in read if isinstance(each, Product)]
            changed += _embedded([each for each in read if isinstance(each, _Photo)], engine, spec)
            if changed:
                catalog.put(changed)
            added += len(changed)
            unchanged += read.count(None)
            if number % _REPORT_EVERY == 0:
                report(f"{start + len(batch)} of {len(items)} products")
        elsewhere = len(catalog) - added - unchanged
    for line in skips.lines():
        report(f"skipped {line}")
    return Indexed(added, unchanged, sum(skips.counts().values()), elsewhere)


def _usable(items: Sequence[Item], skips: Skips) -> list[Item]:
    """The items that can be products: with an id of their own."""
    usable: dict[str, Item] = {}
    for item in items:
        fault = fault_of(item.row, usable)
        if fault:
            skips.add(fault, item.row)
        else:
            usable[item.row.id] = item
    return list(usable.values())


def _read(
    read: Read, spec: Spec, item: Item, before: Product | None
) -> _Photo | Product | str | None:
    """The photo of a product; what is stored of it with new attributes; None if nothing changed.

    A text says why the product is skipped.

    Args:
        before: what is stored of it.
    """
    try:
        contents = read(item.photo)
        digest = hashlib.sha256(contents).digest()
        if before is not None and before.photo == digest:
            same = before.attributes == item.attributes
            return None if same else before._replace(attributes=item.attributes)
        return _Photo(item, digest, decode(contents, spec.image))
    except Unreadable as error:
        return error.reason
    except PhotoFault:
        return "a photo that can't be decoded"


def _embedded(photos: Sequence[_Photo], engine: Engine, spec: Spec) -> list[Product]:
    if not photos:
        return []
    outputs = engine.infer(np.stack([photo.image for photo in photos]))
    named = Labeller(spec).name(outputs, [Choice()] * len(photos))
    labels = {
        head: [spec.heads[head][n] for n in numbers.tolist()] for head, numbers in named.items()
    }
    return [
        Product(
            photo.item.row.id,
            outputs[EMBEDDING][at],
            {head: of[at] for head, of in labels.items()},
            photo.item.attributes,
            photo.digest,
            picture_of(photo.image),
        )
        for at, photo in enumerate(photos)
    ]
