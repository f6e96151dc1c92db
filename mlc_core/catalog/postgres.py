"""A catalogue in PostgreSQL with pgvector, for a shop that outgrows one machine.

Each model has a table of its own, and `mlc_catalogues` lists them. Any number of processes search
and change a catalogue, and each sees at once what another has committed.

The URL is libpq's. It may name several hosts: `target_session_attrs=read-write` finds the primary
again after a failover, and `target_session_attrs=prefer-standby` lets replicas answer searches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import HalfVector
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.json import Json, Jsonb
from psycopg_pool import ConnectionPool

from mlc_core.catalog.catalog import CatalogError, Hit, Product
from mlc_core.catalog.filters import Filter, Value
from mlc_core.spec import Embedding

_Connection = psycopg.Connection[tuple[Any, ...]]

_CONNECTIONS = 8  # of a catalogue, at most
_WAIT_S = 5  # for a connection
_DEFAULTS: dict[str, str | int] = {  # of the URL
    "application_name": "mlc",
    "client_encoding": "UTF8",  # also of a database that names no encoding of its own
    "connect_timeout": _WAIT_S,
    "tcp_user_timeout": 10_000,  # ms until a server that vanished counts as lost
    "keepalives_idle": 10,
}
_PGVECTOR = (0, 8)  # the first that scans its index on until enough products pass a filter
_LISTED = 100  # candidates that a search keeps (hnsw.ef_search); pgvector takes 1000 at most
_SPARE = 4  # times as many products as wanted are looked for if a filter thins them out
_EXACT = 10_000  # if so many products pass the filters, or fewer, all of them are compared
_RANGES = 32  # attributes with numbers that get an index, at most

# Labels and attributes are json, which gives back what was put; jsonb turns 1e16 into an integer.
# What filters look at is jsonb, as _comparable makes it: all values, and the numbers alone.
_TABLES = sql.SQL("""
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE IF NOT EXISTS mlc_catalogues (
    digest text PRIMARY KEY, dimensions integer NOT NULL, is_whole boolean NOT NULL,
    removed timestamptz
);
CREATE TABLE IF NOT EXISTS {products} (
    id text COLLATE "C" PRIMARY KEY, vector halfvec({dimensions}) NOT NULL, labels json NOT NULL,
    attributes json NOT NULL, comparable jsonb NOT NULL, numbers jsonb NOT NULL,
    photo bytea NOT NULL, written timestamptz NOT NULL
);
CREATE TABLE IF NOT EXISTS {pictures} (id text COLLATE "C" PRIMARY KEY, picture bytea NOT NULL);
""")
# Vectors have length 1, so their inner product is the cosine.
_INDEXES = sql.SQL("""
CREATE INDEX ON {products} USING hnsw (vector halfvec_ip_ops);
CREATE INDEX ON {products} USING gin (comparable jsonb_path_ops);
CREATE INDEX ON {products} (written);
""")
_NUMBERS = sql.SQL("SELECT DISTINCT jsonb_object_keys(numbers) FROM {products} ORDER BY 1 LIMIT %s")
_INDEX_NUMBER = sql.SQL("CREATE INDEX ON {products} ((numbers -> {name}))")
_ANALYZE = sql.SQL("ANALYZE {products}")
_PUT = sql.SQL("""
INSERT INTO {products} VALUES (%s, %s, %s, %s, %s, %s, %s, now())
ON CONFLICT (id) DO UPDATE SET (vector, labels, attributes, comparable, numbers, photo, written) = (
    EXCLUDED.vector, EXCLUDED.labels, EXCLUDED.attributes, EXCLUDED.comparable, EXCLUDED.numbers,
    EXCLUDED.photo, EXCLUDED.written
)
""")
_PUT_PICTURE = sql.SQL(
    "INSERT INTO {pictures} VALUES (%s, %s) "
    "ON CONFLICT (id) DO UPDATE SET picture = EXCLUDED.picture"
)
_PICTURE = sql.SQL("SELECT picture FROM {pictures} WHERE id = %s")
_REMOVE_PICTURES = sql.SQL("DELETE FROM {pictures} WHERE id = ANY(%s)")
# Writers lock rows in the order of ids, so none waits for one that waits for it.
_REMOVE = sql.SQL("""
WITH wanted AS (SELECT id FROM {products} WHERE id = ANY(%s) ORDER BY id FOR UPDATE)
DELETE FROM {products} USING wanted WHERE {products}.id = wanted.id RETURNING {products}.id
""")
_WRITTEN = sql.SQL("""
SELECT extract(epoch FROM greatest(removed, (SELECT max(written) FROM {products})))::float8
FROM mlc_catalogues WHERE digest = %s
""")
_COUNT = sql.SQL("SELECT count(*) FROM {products}")
_GET = sql.SQL("""
SELECT id, vector, labels, attributes, photo FROM {products} WHERE id = ANY(%s)
""")
_SEARCH = sql.SQL("""
SELECT id, labels, attributes, vector <#> %s AS distance FROM {products}
WHERE {conditions} ORDER BY distance LIMIT %s
""")
_EXPECT = sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {products} WHERE {conditions}")
_SET = "SELECT set_config(name, value, true) FROM unnest(%s::text[], %s::text[]) AS _ (name, value)"

_EQUAL = sql.SQL("comparable @> %s")
_UNEQUAL = sql.SQL("NOT comparable @> %s")
_ORDERED = {
    "<": sql.SQL("numbers -> %s::text < %s"),
    "<=": sql.SQL("numbers -> %s::text <= %s"),
    ">": sql.SQL("numbers -> %s::text > %s"),
    ">=": sql.SQL("numbers -> %s::text >= %s"),
}
_UNHELD = re.compile(r"[\\\x00\ud800-\udfff]")  # and the backslash, which escapes them
_ESCAPED = re.compile(r"\\([0-9a-f]{4})")


class PostgresCatalog:
    """Searches and changes a catalogue. Threads and processes may do so at the same time.

    A lost connection is replaced. If the server does not come back within seconds, each method
    raises CatalogError.

    Args:
        url: of the database, as postgresql://user:password@host:5432/shop.
        embedding: of the model that embeds photos.
        is_building: a new catalogue gets its indexes, and is found, only by `finish`. Until then a
            search compares all vectors.

    Raises:
        CatalogError: the server can't be reached, or lacks pgvector or a right.
    """

    def __init__(self, url: str, embedding: Embedding, *, is_building: bool = False) -> None:
        self._server, conninfo = _parsed(url)
        self._digest = embedding.digest
        self._products = sql.Identifier(f"mlc_products_{embedding.digest[:16]}")
        self._pictures = sql.Identifier(f"mlc_pictures_{embedding.digest[:16]}")
        with _told(self._server), psycopg.connect(conninfo) as connection:
            # A replica, or a user who may not create tables, opens what is there.
            if embedding not in _listed(connection):
                self._create(connection, embedding, is_building=is_building)
            self._check_pgvector(connection)
        self._pool: ConnectionPool[_Connection] = ConnectionPool(
            conninfo,
            # Without prepared statements, each filter gets a plan of its own.
            kwargs={"autocommit": True, "prepare_threshold": None},
            min_size=1,
            max_size=_CONNECTIONS,
            timeout=_WAIT_S,
            reconnect_timeout=_WAIT_S,  # then the next caller tries at once; else delays double
            configure=register_vector,
            check=self._check,
            open=True,
        )

    def __len__(self) -> int:
        with self._connected() as connection:
            return int(_value(connection, _COUNT.format(products=self._products)))

    def search(
        self, vector: NDArray[np.float32], count: int, filters: Sequence[Filter] = ()
    ) -> list[Hit]:
        """The products that are most similar, of those that pass all filters, the best first.

        Args:
            vector: (dimensions,), of length 1.
            count: at most so many.

        Raises:
            CatalogError: the server does not answer.
        """
        conditions, parameters = _conditions(filters)
        statement = _SEARCH.format(products=self._products, conditions=conditions)
        settings = {
            # Candidates come in batches, each sorted in itself. Strict order would leave out those
            # that are nearer than the last one of the batch before.
            "hnsw.iterative_scan": "relaxed_order",
            "hnsw.ef_search": str(min(max(_LISTED, count), 1000)),
            "jit": "off",  # it compiles for longer than a search takes
        }
        query, rows = HalfVector(vector), []
        enough = count * _SPARE if filters else count
        with self._connected() as connection:
            if not filters or self._expected(connection, conditions, parameters) > _EXACT:
                rows = _rows(connection, statement, (query, *parameters, enough), settings)
            if len(rows) < enough:
                settings["enable_indexscan"] = "off"  # of the vectors; bitmaps of others stay on
                rows = _rows(connection, statement, (query, *parameters, count), settings)
        rows.sort(key=lambda row: float(row[3]))
        return [
            Hit(_plain(name), -distance, labels, attributes)
            for name, labels, attributes, distance in rows[:count]
        ]

    def get(self, ids: Sequence[str]) -> dict[str, Product]:
        """The products with these ids, those that there are."""
        names = [_escaped(each) for each in ids]
        with self._connected() as connection:
            rows = connection.execute(
                _GET.format(products=self._products), (names,), binary=True
            ).fetchall()
        return {
            _plain(name): Product(_plain(name), vector.to_numpy().astype(np.float32), *others)
            for name, vector, *others in rows
        }

    def picture(self, name: str) -> bytes | None:
        """The picture of a product; None if it has none."""
        statement = _PICTURE.format(pictures=self._pictures)
        with self._connected() as connection:
            picture = _value(connection, statement, _escaped(name))
        return None if picture is None else bytes(picture)

    def put(self, products: Sequence[Product]) -> None:
        """Add products, or replace those of the same id. They are committed when it returns."""
        rows = [_row(each) for each in products]
        rows.sort(key=lambda row: row[0])
        pictures = sorted((_escaped(each.id), each.picture) for each in products if each.picture)
        with self._connected() as connection, connection.transaction():
            cursor = connection.cursor()
            cursor.executemany(_PUT.format(products=self._products), rows)
            cursor.executemany(_PUT_PICTURE.format(pictures=self._pictures), pictures)

    def remove(self, ids: Sequence[str]) -> list[str]:
        """Remove products; returns the ids of those that were there."""
        wanted = {_escaped(each): each for each in ids}
        with self._connected() as connection, connection.transaction():
            rows = connection.execute(
                _REMOVE.format(products=self._products), (list(wanted),)
            ).fetchall()
            if rows:
                names = [name for (name,) in rows]
                connection.execute(_REMOVE_PICTURES.format(pictures=self._pictures), (names,))
                connection.execute(
                    "UPDATE mlc_catalogues SET removed = now() WHERE digest = %s", (self._digest,)
                )
        removed = {name for (name,) in rows}
        return [each for name, each in wanted.items() if name in removed]

    def written_at(self) -> float | None:
        """When a product was written or removed last, in seconds since 1970; None if none was."""
        with self._connected() as connection:
            written = _value(connection, _WRITTEN.format(products=self._products), self._digest)
        return None if written is None else float(written)

    def follow(self) -> None:
        """Nothing to do: a search sees what other processes have committed."""

    def finish(self) -> None:
        """Give a new catalogue its indexes, and let it be found; no product is written meanwhile.

        An index of all products at once is built several times faster than one that grows with
        each. The server's maintenance_work_mem should hold it.
        """
        with self._connected() as connection, connection.transaction():
            _lock(connection)
            self._finish(connection)

    def close(self) -> None:
        """End the connections; what was acknowledged is committed already."""
        self._pool.close()

    def _create(self, connection: _Connection, embedding: Embedding, *, is_building: bool) -> None:
        needs = psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported
        try:
            _lock(connection)
            connection.execute(
                _TABLES.format(
                    products=self._products,
                    pictures=self._pictures,
                    dimensions=sql.Literal(embedding.dimensions),
                )
            )
            made = connection.execute(
                "INSERT INTO mlc_catalogues VALUES (%s, %s, false) ON CONFLICT DO NOTHING",
                (embedding.digest, embedding.dimensions),
            )
            if made.rowcount and not is_building:
                self._finish(connection)
        except needs as error:
            raise CatalogError(
                f"no catalogue can be made in {self._server} ({error.diag.message_primary}); the "
                "server needs pgvector, its user the right to create tables, and the database, "
                "once, CREATE EXTENSION vector by a superuser"
            ) from error

    def _finish(self, connection: _Connection) -> None:
        is_whole = "SELECT is_whole FROM mlc_catalogues WHERE digest = %s"
        if not _value(connection, is_whole, self._digest):
            connection.execute(_INDEXES.format(products=self._products))
            names = connection.execute(_NUMBERS.format(products=self._products), (_RANGES,))
            for (name,) in names.fetchall():
                connection.execute(
                    _INDEX_NUMBER.format(products=self._products, name=sql.Literal(name))
                )
            connection.execute(_ANALYZE.format(products=self._products))
            connection.execute(
                "UPDATE mlc_catalogues SET is_whole = true WHERE digest = %s", (self._digest,)
            )

    def _check_pgvector(self, connection: _Connection) -> None:
        installed = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
        version = str(_value(connection, installed) or "0")
        if tuple(map(int, version.split(".")[:2])) < _PGVECTOR:
            raise CatalogError(
                f"{self._server} has pgvector {version}; filters need 0.8 or later: install it and "
                "run ALTER EXTENSION vector UPDATE"
            )

    def _check(self, connection: _Connection) -> None:
        """Whether a connection of the pool is alive. If one is not, the others are suspect too."""
        try:
            self._pool.check_connection(connection)
        except psycopg.Error:
            self._pool.drain()
            raise

    def _expected(
        self, connection: _Connection, conditions: sql.Composable, parameters: Sequence[object]
    ) -> int:
        """How many products pass some conditions, by the statistics of the server."""
        statement = _EXPECT.format(products=self._products, conditions=conditions)
        return int(_value(connection, statement, *parameters)[0]["Plan"]["Plan Rows"])

    @contextmanager
    def _connected(self) -> Iterator[_Connection]:
        with _told(self._server), self._pool.connection() as connection:
            yield connection


def found_in(url: str) -> list[Embedding]:
    """The embeddings of the catalogues that a database has whole.

    Raises:
        CatalogError: the server can't be reached.
    """
    server, conninfo = _parsed(url)
    with _told(server), psycopg.connect(conninfo) as connection:
        return _listed(connection, only_whole=True)


def _listed(connection: _Connection, *, only_whole: bool = False) -> list[Embedding]:
    if _value(connection, "SELECT to_regclass('mlc_catalogues')") is None:
        return []
    rows = connection.execute(
        "SELECT dimensions, digest FROM mlc_catalogues WHERE is_whole OR NOT %s ORDER BY digest",
        (only_whole,),
    )
    return [Embedding(*row) for row in rows]


def _rows(
    connection: _Connection,
    statement: sql.Composed,
    values: Sequence[object],
    settings: Mapping[str, str],
) -> list[tuple[Any, ...]]:
    """The rows of a statement, with settings that hold for it alone."""
    with connection.pipeline(), connection.transaction():  # one round trip for all of it
        connection.execute(_SET, (list(settings), list(settings.values())))
        return connection.execute(statement, values).fetchall()


def _value(
    connection: _Connection, statement: LiteralString | sql.Composed, *parameters: object
) -> Any:
    """The first value of the first row; None if there is none."""
    row = connection.execute(statement, parameters).fetchone()
    return None if row is None else row[0]


def _lock(connection: _Connection) -> None:
    """Until the transaction ends, no other process creates or finishes a catalogue."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('mlc_catalogues'))")


def _parsed(url: str) -> tuple[str, str]:
    """What to call the server in errors, without its password; and the URL with our defaults.

    Raises:
        CatalogError: the URL can't be read. Its text has nothing of it, as libpq takes a part of a
            password with special characters for a host or a port.
    """
    try:
        parts = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        parts = {"port": "none"}
    host, port, name = (str(parts.get(key) or "") for key in ("host", "port", "dbname"))
    if "@" in host[1:] or "@" in name or not re.fullmatch("[0-9,]*", port):
        raise CatalogError(
            "the URL of the catalogue can't be read; it is as "
            "postgresql://user:password@host:5432/database, with special characters of the "
            "password as %XX"
        )
    server = f"PostgreSQL at {host or 'localhost'}{port and ':'}{port}/{name}"
    return server, make_conninfo(url, **{k: v for k, v in _DEFAULTS.items() if k not in parts})


@contextmanager
def _told(server: str) -> Iterator[None]:
    """Raise what goes wrong with a database as CatalogError."""
    try:
        yield
    except psycopg.Error as error:
        reason = error.diag.message_primary or " ".join(str(error).split())
        if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
            reason += "; check that it runs, and that the URL of the catalogue is right"
        raise CatalogError(f"{server}: {reason}") from error


def _conditions(filters: Sequence[Filter]) -> tuple[sql.Composable, list[object]]:
    """The conditions of filters in SQL, and their parameters."""
    conditions: list[sql.Composable] = [sql.SQL("true")]
    parameters: list[object] = []
    for each in filters:
        if each.relation in _ORDERED:
            conditions.append(_ORDERED[each.relation])
            parameters += [_escaped(each.name), Jsonb(each.value)]
        else:
            conditions.append(_EQUAL if each.relation == "=" else _UNEQUAL)
            parameters.append(Jsonb(_comparable({each.name: each.value})))
    return sql.SQL(" AND ").join(conditions), parameters


def _row(product: Product) -> tuple[Any, ...]:
    """What is stored of a product, in the order of the columns."""
    values = _comparable({**product.attributes, **product.labels})
    numbers = {name: value for name, value in values.items() if isinstance(value, float)}
    return (
        _escaped(product.id), HalfVector(product.vector), Json(dict(product.labels)),
        Json(dict(product.attributes)), Jsonb(values), Jsonb(numbers), product.photo,
    )  # fmt: skip


def _comparable(values: Mapping[str, Value]) -> dict[str, Value]:
    """Values as filters compare them: every number is a float64, as in `Columns`."""
    return {_escaped(name): _compared(value) for name, value in values.items()}


def _compared(value: Value) -> Value:
    if isinstance(value, str):
        return _escaped(value)
    return value if isinstance(value, bool) else float(value)


def _escaped(text: str) -> str:
    """A text without what PostgreSQL can't hold: NUL, and halves of surrogate pairs."""
    return _UNHELD.sub(lambda found: f"\\{ord(found[0]):04x}", text)


def _plain(text: str) -> str:
    """What `_escaped` had escaped."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
