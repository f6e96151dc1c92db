"""Claims about what Serve gets to see of a request's headers."""

import pytest

from deployments.http.middleware import RequestHeaders


async def seen_by_serve(headers, path="/v1/classify/batch"):
    seen = {}

    async def serve(scope, receive, send):
        seen["headers"] = scope["headers"]

    await RequestHeaders(serve)({"type": "http", "path": path, "headers": headers}, None, None)
    return seen["headers"]


@pytest.mark.parametrize("name", [b"x-request-timeout-seconds", b"x-request-disconnect-disabled"])
async def test_clients_do_not_steer_serve(name):
    assert await seen_by_serve([(name, b"0"), (b"accept", b"*/*")]) == [(b"accept", b"*/*")]


@pytest.mark.parametrize("sane", [b"r-1", b"6f9619ff-8b86-d011-b42d-00c04fc964ff", b"a" * 128])
async def test_a_sane_request_id_is_kept(sane):
    assert await seen_by_serve([(b"x-request-id", sane)]) == [(b"x-request-id", sane)]


@pytest.mark.parametrize("odd", [b"", b"a" * 129, b"a b", b'a"b', "ä".encode(), b"<script>"])
async def test_a_request_id_unfit_for_a_log_is_dropped(odd):
    assert await seen_by_serve([(b"x-request-id", odd)]) == []


async def test_two_request_ids_are_none():
    assert await seen_by_serve([(b"x-request-id", b"a"), (b"x-request-id", b"b")]) == []
