"""Claims about the environment that a local service starts in."""

import resource

import pytest

from launcher.environment import cluster_env, service_environment

CLIENTS = "RAY_SERVE_HAPROXY_MAXCONN"


@pytest.mark.parametrize("files", [12_000, 4_096])
def test_haproxy_asks_for_no_more_files_than_may_be_open(files, monkeypatch):
    monkeypatch.delenv(CLIENTS, raising=False)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, files))
    assert 0.9 * files < 2.5 * int(service_environment(8000)[CLIENTS]) < files


@pytest.mark.parametrize("files", [2**20, resource.RLIM_INFINITY])
def test_haproxy_takes_as_many_clients_as_shipped_where_it_can(files, monkeypatch):
    monkeypatch.delenv(CLIENTS, raising=False)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, files))
    assert service_environment(8000)[CLIENTS] == cluster_env()[CLIENTS]
