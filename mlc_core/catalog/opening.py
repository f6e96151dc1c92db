"""Finds catalogues by where they are: a directory or PostgreSQL, with one for each model.

In a directory, each has a file. A new model's file is built beside the old one, under another name,
and gets its own when it is whole. In PostgreSQL, each has a table, marked once it is whole.
A service opens what it finds, so it answers with each as soon as the model asks for it.

PostgreSQL is named by the URL of a database. Several URLs, with spaces between them, are shards of
one catalogue. No URL has a space in it, while commas separate the hosts of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlc_core.catalog.catalog import Catalog, CatalogError, Products
from mlc_core.catalog.local import LocalCatalog
from mlc_core.catalog.sharded import ShardedCatalog
from mlc_core.catalog.store import Store, embedding_of
from mlc_core.spec import Embedding

if TYPE_CHECKING:
    from mlc_core.catalog.postgres import PostgresCatalog

_WHOLE, _BUILDING = ".db", ".building"
_SCHEMES = ("postgresql://", "postgres://")


def found(where: str) -> list[Embedding]:
    """The embeddings of the catalogues that are there.

    Raises:
        CatalogError: there is no such directory or server, or a file in it is no catalogue.
    """
    if urls := _urls(where):
        from mlc_core.catalog.postgres import found_in  # noqa: PLC0415

        first, *others = [found_in(url) for url in urls]
        return [each for each in first if all(each in other for other in others)]
    return [embedding_of(file) for file in sorted(_directory(where).glob(f"*{_WHOLE}"))]


def open_catalog(where: str, embedding: Embedding) -> Catalog:
    """Open a catalogue for searches and changes; a new one is empty.

    Raises:
        CatalogError: there is no such directory or server, or the catalogue can't be opened.
    """
    if urls := _urls(where):
        return _joined(_opened(urls, embedding))
    return LocalCatalog(_file(_directory(where), embedding, _WHOLE), embedding)


@contextmanager
def indexing(where: str, embedding: Embedding) -> Iterator[Products]:
    """Open the products of a catalogue to bring them up to date.

    A directory is created if it is missing. A new catalogue is found once this ends without an
    exception; until then, another run goes on where this one stopped.

    Raises:
        CatalogError: it can't be opened.
    """
    if urls := _urls(where):
        shards = _opened(urls, embedding, is_building=True)
        with closing(_joined(shards)) as catalog, ThreadPoolExecutor(len(shards)) as pool:
            yield catalog
            list(pool.map(lambda shard: shard.finish(), shards))
        return
    directory = Path(where)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CatalogError(f"{where} can't be created: {error.strerror}") from error
    whole = _file(directory, embedding, _WHOLE)
    building = _file(directory, embedding, _BUILDING)
    file = whole if whole.exists() else building
    store = Store(file, embedding)
    try:
        yield store
    finally:
        store.close()
    if file is building:
        building.rename(whole)


def _urls(where: str) -> list[str]:
    """The URLs of PostgreSQL, one for each shard; none if it is a directory.

    Raises:
        CatalogError: a shard has no URL or that of another one, or psycopg is missing.
    """
    if not where.startswith(_SCHEMES):
        return []
    urls = where.split()
    if len(set(urls)) < len(urls) or not all(url.startswith(_SCHEMES) for url in urls):
        raise CatalogError(
            "each shard of a catalogue needs a URL of its own, as postgresql://host/database, with "
            "spaces between them"
        )
    try:
        import mlc_core.catalog.postgres  # noqa: F401, PLC0415
    except ImportError as missing:
        raise CatalogError(
            f"a catalogue in PostgreSQL needs more packages ({missing}): "
            "pip install 'multi-label-classifier[postgres]'"
        ) from missing
    return urls


def _opened(
    urls: list[str], embedding: Embedding, *, is_building: bool = False
) -> list[PostgresCatalog]:
    from mlc_core.catalog.postgres import PostgresCatalog  # noqa: PLC0415

    with ExitStack() as stack:
        shards = [
            stack.enter_context(closing(PostgresCatalog(url, embedding, is_building=is_building)))
            for url in urls
        ]
        stack.pop_all()
    return shards


def _joined(shards: list[PostgresCatalog]) -> Catalog:
    return ShardedCatalog(shards) if len(shards) > 1 else shards[0]


def _file(directory: Path, embedding: Embedding, suffix: str) -> Path:
    return directory / f"{embedding.digest[:16]}{suffix}"


def _directory(where: str) -> Path:
    directory = Path(where)
    if not directory.is_dir():
        raise CatalogError(f"there is no directory {where}; make a catalogue with `mlc index`")
    return directory
