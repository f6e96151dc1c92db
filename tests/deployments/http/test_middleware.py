"""Claims about what Serve gets to see of a request's headers, and how answers are sent."""

import asyncio

import pytest
import uvicorn

from deployments.http.middleware import OneWrite, RequestHeaders


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


async def test_one_photo_is_timed_and_watched_by_its_route_not_by_serve():
    client = (b"x-request-timeout-seconds", b"3600")
    seen = await seen_by_serve([client, (b"accept", b"*/*")], "/v1/classify")
    assert sorted(seen) == [
        (b"accept", b"*/*"),
        (b"x-request-disconnect-disabled", b"?1"),
        (b"x-request-timeout-seconds", b"0"),
    ]


async def app(scope, receive, send):
    """Answers the body of a request, in two chunks where it is "chunked", none where "fault"."""
    body = (await receive())["body"]
    head = {"type": "http.response.start", "status": 200, "headers": []}
    if body != b"chunked":
        head["headers"] = [(b"content-length", b"%d" % len(body))]
    await send(head)
    if body == b"fault":
        raise RuntimeError
    await send({"type": "http.response.body", "body": body[:4], "more_body": True})
    await send({"type": "http.response.body", "body": body[4:]})


@pytest.fixture
async def address():
    config = uvicorn.Config(OneWrite(app), port=0, log_level="critical", http="httptools")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()
    server.should_exit = True
    await running


async def exchange(address, body, path="/v1/classify", extra=""):
    reader, writer = await asyncio.open_connection(*address)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    for _ in range(2):  # a connection goes on after an answer
        writer.write(head.encode() + body)
        answer = b""
        while not answer.endswith((body[-4:], b"0\r\n\r\n")) and (data := await reader.read(9999)):
            answer += data
    writer.close()
    return answer


async def test_the_head_of_an_answer_travels_with_its_body():
    writes = []

    class Cycle:
        transport = None

        async def send(self, message):
            self.transport.write(message.get("body", b"head "))

    class Transport:
        def write(self, data):
            writes.append(data)

    cycle = Cycle()
    for _ in range(2):
        cycle.transport = Transport()

        async def receive():
            return {"type": "http.request", "body": b"0123456"}

        scope = {"type": "http", "path": "/v1/classify", "method": "POST"}
        await OneWrite(app)(scope, receive, cycle.send)
    assert writes == [b"head 0123", b"456"] * 2


@pytest.mark.parametrize("path", ["/v1/classify", "/elsewhere"])
@pytest.mark.parametrize("body", [b"0123456789", b"0123", b"chunked"])
async def test_answers_come_whole_through_uvicorn(address, path, body):
    answer = await exchange(address, body, path)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    _, _, rest = answer.partition(b"\r\n\r\n")
    assert rest == (b"4\r\nchun\r\n3\r\nked\r\n0\r\n\r\n" if body == b"chunked" else body)


async def test_a_client_that_asks_before_it_sends_is_told_to_go_on(address):
    reader, writer = await asyncio.open_connection(*address)
    head = (
        "POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    )
    writer.write(head.encode())
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"0123")
    assert (await reader.readuntil(b"0123")).startswith(b"HTTP/1.1 200 OK")
    writer.close()


async def test_an_answer_that_fails_after_its_head_ends_the_connection(address):
    assert b"fault" not in await exchange(address, b"fault")
