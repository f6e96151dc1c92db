"""Claims about photos that come straight from uvicorn, past Serve's wrapper of a request."""

import asyncio
import gc
import json
import logging
import weakref

import pytest
import uvicorn
from played import PlayedPipeline
from recording import Recording

from deployments.errors import Overloaded
from deployments.http import lingering, middleware
from deployments.http.api import build_api
from deployments.http.disconnects import Disconnects
from deployments.http.middleware import middlewares, take_photos
from deployments.http.photo_route import Telemetry
from deployments.http.response import RawResponse
from deployments.messages import Trace
from deployments.pipeline.dispatcher import Dispatched
from deployments.settings import RequestLogSettings, Settings
from deployments.telemetry.catalogue import PHOTOS_ANSWERED, PROBLEMS, REQUEST_DURATION
from deployments.telemetry.request_log import RequestLog
from mlc_core.errors import UndecodablePhoto


class Pipeline(PlayedPipeline):
    """Answers every photo with its bytes, unless it refuses."""

    def __init__(self):
        self.refused = self.fault = None
        self.faults = []  # of photos, which are answers
        self.gate = asyncio.Event()
        self.gate.set()

    def refusal(self, _size_bytes):
        return self.refused

    def expected_wait_s(self, _size_bytes):
        return 3.0

    def submit(self, data, _choice, _request_id):
        return asyncio.ensure_future(self._answer(data))

    async def _answer(self, data):
        await self.gate.wait()
        if self.fault:
            raise self.fault
        answer = self.faults.pop() if self.faults else data
        return Dispatched(answer, "small_photos_queue", 0.0, Trace({}, 1, "fashion/1"))


class Service:
    """uvicorn, the middleware, and behind it a Serve that answers "serve" to all it gets."""

    def __init__(self):
        self.pipeline, self.recorder = Pipeline(), Recording()
        self.log = RequestLog(RequestLogSettings(), logging.NullHandler(), self.recorder)
        self.api = build_api(
            self.pipeline, None, None, Settings(), Telemetry(self.recorder, self.log), Disconnects()
        )

    async def __aenter__(self):
        app = self._serve
        for each in middlewares():
            app = each.cls(app)
        config = uvicorn.Config(app, port=0, log_level="critical", http="httptools")
        self._server = uvicorn.Server(config)
        self._running = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.01)
        self.address = self._server.servers[0].sockets[0].getsockname()
        return self

    async def __aexit__(self, *_):
        self._server.should_exit = True
        await self._running

    async def _serve(self, scope, receive, send):
        status, headers = 200, [(b"content-length", b"5")]
        if scope["path"] == "/refused":
            status, headers = 413, [*headers, (b"connection", b"close")]
        else:
            await receive()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"serve"})


@pytest.fixture
async def service():
    async with Service() as service:
        take_photos(service.api.photo_route, asyncio.get_running_loop())
        yield service
    middleware._ingresses.clear()


class Client:
    """One kept-alive connection."""

    def __init__(self, service):
        self._service = service

    async def __aenter__(self):
        self._reader, self._writer = await asyncio.open_connection(*self._service.address)
        return self

    async def __aexit__(self, *_):
        self._writer.close()

    def send(self, body=b"photo", head="", request="POST /v1/classify", *, whole=True):
        text = f"{request} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{head}\r\n"
        self._writer.write(text.encode() + (body if whole else b""))

    def start(self, request, head):
        """Send a head alone."""
        self._writer.write(f"{request} HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())

    def send_body(self, body):
        self._writer.write(body)

    async def send_slowly(self, size_bytes, piece=b"x" * 2**18):
        """Send so many bytes, as fast as the server takes them."""
        for _ in range(0, size_bytes, len(piece)):
            self._writer.write(piece)
            await self._writer.drain()

    async def has_ended(self):
        """Whether the server closes the connection."""
        async with asyncio.timeout(10):
            return not await self._reader.read(1)

    async def receive(self):
        """Status, headers as a list, and body."""
        async with asyncio.timeout(10):
            first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            headers = [tuple(line.split(": ", 1)) for line in lines]
            length = int(dict(headers)["content-length"])
            return int(first.split()[1]), headers, await self._reader.readexactly(length)


def ids(headers):
    return [value for name, value in headers if name == "x-request-id"]


async def test_a_photo_is_answered_without_serve_and_gets_an_id_of_its_own(service):
    seen = set()
    async with Client(service) as client:
        for _ in range(3):
            client.send()
            status, headers, body = await client.receive()
            assert (status, body) == (200, b"photo")
            (request_id,) = ids(headers)
            seen.add(request_id)
    assert len(seen) == 3
    labels = {"route": "/v1/classify", "status": "200"}
    assert service.recorder.values(PHOTOS_ANSWERED, **labels) == [1, 1, 1]
    assert len(service.recorder.values(REQUEST_DURATION, **labels)) == 3


@pytest.mark.parametrize("sane", ["r-1", "a" * 128])
async def test_the_clients_id_is_kept_if_it_is_sane(service, sane):
    async with Client(service) as client:
        client.send(head=f"X-Request-ID: {sane}\r\n")
        assert ids((await client.receive())[1]) == [sane]


@pytest.mark.parametrize("odd", ["X-Request-ID: a b", "X-Request-ID: a\r\nX-Request-ID: b"])
async def test_an_id_that_is_unfit_for_a_log_is_replaced(service, odd):
    async with Client(service) as client:
        client.send(head=f"{odd}\r\n")
        (request_id,) = ids((await client.receive())[1])
    assert request_id not in ("a b", "a", "b")


@pytest.mark.parametrize("request_line", ["GET /v1/classify", "POST /v1/classify/batch", "GET /"])
async def test_everything_else_goes_to_serve(service, request_line):
    async with Client(service) as client:
        client.send(request=request_line)
        assert (await client.receive())[2] == b"serve"


async def test_a_process_without_an_ingress_passes_photos_on():
    async with Service() as service, Client(service) as client:
        client.send()
        assert (await client.receive())[2] == b"serve"


async def test_an_ingress_that_runs_in_another_event_loop_is_not_called():
    async with Service() as service, Client(service) as client:
        other = asyncio.new_event_loop()
        take_photos(service.api.photo_route, other)
        client.send()
        assert (await client.receive())[2] == b"serve"
        other.close()
    middleware._ingresses.clear()


async def test_a_photo_that_would_wait_too_long_is_refused_before_its_body_comes(service):
    service.pipeline.refused = Overloaded("the wait would be about 3 s; try again later")
    async with Client(service) as client:
        client.send(b"photo" * 1000, whole=False)
        status, headers, body = await client.receive()
        assert status == 503
        assert {("retry-after", "1"), ("content-type", "application/problem+json")} <= set(headers)
        problem = json.loads(body)
        assert problem.pop("detail") == "the wait would be about 3 s; try again later"
        assert ids(headers) == [problem.pop("request_id")]
        assert problem == {
            "type": "urn:problem-type:mlc:overloaded", "title": "Overloaded", "status": 503
        }  # fmt: skip
        client.send_body(b"photo" * 1000)  # the connection stays fit for use
        service.pipeline.refused = None
        client.send()
        assert (await client.receive())[2] == b"photo"
    counted = {"route": "/v1/classify", "status": "503"}
    assert service.recorder.values(PHOTOS_ANSWERED, **counted) == [1]
    (duration_s,) = service.recorder.values(REQUEST_DURATION, **counted)
    assert duration_s > 0
    assert service.recorder.values(PROBLEMS, problem="overloaded") == [1]


async def test_a_refusal_has_haproxy_refuse_small_photos_for_a_while(service):
    service.pipeline.refused = Overloaded("the wait would be about 3 s; try again later")
    async with Client(service) as client:
        client.send()
        told = dict((await client.receive())[1])
        # A quarter of the wait of 3 s, but at most 0.2 s.
        assert (told["x-mlc-refuse-ms"], told["x-mlc-refuse-below-bytes"]) == ("200", "49152")


async def test_a_refusal_of_a_large_photo_does_not_stop_small_ones(service):
    service.pipeline.refused = Overloaded("the wait would be about 3 s; try again later")
    async with Client(service) as client:
        client.send(b"x" * 49_152)
        assert "x-mlc-refuse-ms" not in dict((await client.receive())[1])


@pytest.mark.parametrize(("header", "counted"), [("7", [7]), ("-7", []), ("9" * 10, [])])
async def test_what_haproxy_refused_is_counted(service, header, counted):
    async with Client(service) as client:
        client.send(head=f"X-MLC-Refused: {header}\r\n")
        assert (await client.receive())[0] == 200
    labels = {"route": "/v1/classify", "status": "503"}
    assert service.recorder.values(PHOTOS_ANSWERED, **labels) == counted
    assert service.recorder.values(PROBLEMS, problem="overloaded") == counted


@pytest.mark.parametrize(
    ("request_line", "head", "status"),
    [
        ("POST /v1/classify", "", 413),
        ("POST /refused", "", 413),
        ("POST /v1/classify?top_k=0", "Connection: close\r\n", 400),
        ("POST /other", "Connection: close\r\n", 200),
    ],
)
async def test_an_answer_that_leaves_before_its_upload_is_over_can_be_read_after_it(
    service, request_line, head, status
):
    """By a client that reads only when it has written all."""
    size_bytes = 24 * 2**20
    async with Client(service) as client:
        client.start(request_line, f"Content-Length: {size_bytes}\r\n{head}")
        await client.send_slowly(size_bytes)
        got, headers, body = await client.receive()
        assert got == status
        assert ("connection", "close") in headers
        assert body == b"serve" or json.loads(body)["status"] == status
        assert await client.has_ended()
    if request_line == "POST /v1/classify":
        assert service.recorder.values(PHOTOS_ANSWERED, status="413") == [1]
        assert service.log.in_progress == 0


@pytest.mark.parametrize("request_line", ["POST /v1/classify", "POST /refused"])
async def test_an_answer_does_not_wait_for_the_rest_of_its_upload(service, request_line):
    async with Client(service) as client:
        client.start(request_line, "Transfer-Encoding: chunked\r\n")
        for _ in range(44):
            await client.send_slowly(2**18, b"40000\r\n" + b"x" * 2**18 + b"\r\n")
        assert (await client.receive())[0] == 413
        client.send_body(b"0\r\n\r\n")
        assert await client.has_ended()


@pytest.mark.parametrize("request_line", ["POST /v1/classify", "POST /refused"])
async def test_the_rest_of_an_upload_is_read_for_so_long_and_no_longer(
    service, monkeypatch, request_line
):
    monkeypatch.setattr(lingering, "_SILENCE_S", 0.05)
    async with Client(service) as client:
        client.start(request_line, "Content-Length: 90000000\r\n")
        assert (await client.receive())[0] == 413
        assert await client.has_ended()
    monkeypatch.setattr(lingering, "_LIMIT_BYTES", 2**20)
    async with Client(service) as client:
        client.start(request_line, "Content-Length: 90000000\r\n")
        with pytest.raises(OSError):  # noqa: PT011  (reset or broken pipe)
            await client.send_slowly(90_000_000)


@pytest.mark.parametrize(
    ("request_line", "head"),
    [
        ("FOO /v1/classify", ""),
        ("post /v1/classify", ""),
        ("POST /v1/classify", "X: a\x01b\r\n"),
        ("GET /", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
    ],
)  # fmt: skip
async def test_what_is_no_http_is_a_problem_too(service, request_line, head):
    async with Client(service) as client:
        client.start(request_line, head)
        status, headers, body = await client.receive()
        assert status == 400
        assert ("content-type", "application/problem+json") in headers
        details = json.loads(body)
        assert details["type"] == "urn:problem-type:mlc:malformed-request"
        assert ids(headers) == [details["request_id"]]
        assert await client.has_ended()


async def test_requests_in_progress_are_counted_for_autoscaling(service):
    service.pipeline.gate.clear()
    async with Client(service) as one, Client(service) as other:
        one.send()
        other.send()
        async with asyncio.timeout(10):
            while service.log.in_progress < 2:
                await asyncio.sleep(0.001)
        service.pipeline.gate.set()
        await asyncio.gather(one.receive(), other.receive())
    assert service.log.in_progress == 0


async def test_a_fault_of_ours_is_a_problem_and_the_connection_stays(service):
    async with Client(service) as client:
        service.pipeline.fault = KeyError("a fault of ours")
        client.send()
        status, headers, body = await client.receive()
        assert status == 500
        assert ("content-type", "application/problem+json") in headers
        assert b"a fault of ours" not in body
        service.pipeline.fault = None
        client.send()
        assert (await client.receive())[0] == 200


async def test_a_photo_that_can_not_be_decoded_is_gone_when_it_is_answered(service):
    service.pipeline.faults = [UndecodablePhoto("this is no photo")]
    fault = weakref.ref(service.pipeline.faults[0])
    gc.disable()  # a cycle would wait for it
    try:
        async with Client(service) as client:
            client.send()
            assert (await client.receive())[0] == 422
        assert fault() is None
    finally:
        gc.enable()


async def test_a_client_that_asks_before_it_sends_is_told_to_go_on(service):
    async with Client(service) as client:
        client.send(head="Expect: 100-continue\r\n", whole=False)
        assert await client._reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send_body(b"photo")
        assert (await client.receive())[2] == b"photo"


async def test_an_answer_leaves_in_one_write(service):
    """Uvicorn's own way is one for the head and one for the body."""
    writes = []

    class Watched:
        """uvicorn's transport, with a look at what it writes."""

        def __init__(self, transport):
            self._transport = transport

        def write(self, data):
            writes.append(data)
            self._transport.write(data)

        def __getattr__(self, name):
            return getattr(self._transport, name)

    answer = service.api.photo_route.answer_directly

    async def watch(request_id, scope, receive, send):
        send.__self__.transport = Watched(send.__self__.transport)
        await answer(request_id, scope, receive, send)

    service.api.photo_route.answer_directly = watch
    async with Client(service) as client:
        for _ in range(2):
            client.send()
            assert (await client.receive())[2] == b"photo"
    assert len(writes) == 2
    assert all(write.endswith(b"\r\n\r\nphoto") for write in writes)


async def test_an_answer_says_the_same_as_uvicorns_own_way(service):
    """The same status line and headers, but for the date."""

    async def own_way(response, send):
        head = {"status": response.status, "headers": response.headers}
        await send({"type": "http.response.start", **head})
        await send({"type": "http.response.body", "body": response.body})

    async def answers():
        seen = []
        for head in ("", "Connection: close\r\n"):
            async with Client(service) as client:
                client.send(head=f"X-Request-ID: same\r\n{head}")
                status, headers, body = await client.receive()
                ended = await client.has_ended() if head else None
                seen.append((status, [h for h in headers if h[0] != "date"], body, ended))
        return seen

    ours = await answers()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RawResponse, "send", own_way)
        assert await answers() == ours


async def test_a_client_that_closes_after_its_request_disturbs_nobody(service):
    service.pipeline.gate.clear()
    async with Client(service) as client:
        client.send()
        async with asyncio.timeout(10):
            while not service.log.in_progress:
                await asyncio.sleep(0.001)
    service.pipeline.gate.set()
    async with Client(service) as client:
        client.send()
        assert (await client.receive())[0] == 200


async def test_the_ids_of_two_processes_differ(service):
    seen = []
    for _ in range(2):
        async with Service() as other, Client(other) as client:
            client.send()
            seen += ids((await client.receive())[1])
    assert len(set(seen)) == 2
