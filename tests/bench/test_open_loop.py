"""The open loop against small servers, each of which answers in its own way."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from bench.client import LOST, Client
from bench.load import OpenLoad, open_loop

PHOTOS = [b"one", b"another"]
PROBLEM = "content-type: application/problem+json\r\nretry-after: 1\r\n"


def response(status: int = 200, headers: str = "", body: str = "{}") -> bytes:
    head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body.encode()


class Server:
    """Reads requests and lets `answer` write to them, given their number."""

    def __init__(self, answer: Callable[[int, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self.photos: list[bytes] = []
        self.connections = 0
        self.url = ""
        self._answer = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                assert head.startswith("POST /v1/classify HTTP/1.1\r\n")
                assert "Content-Type: image/jpeg\r\n" in head
                length = int(head.split("Content-Length: ")[1].split("\r\n")[0])
                self.photos.append(await reader.readexactly(length))
                await self._answer(len(self.photos) - 1, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client, or `answer`, closed the connection
        finally:
            writer.close()

    async def load(self, rate: float = 1000, seconds: float = 0.1, **options) -> OpenLoad:
        sent = await asyncio.to_thread(
            open_loop, self.url, {"": (PHOTOS, rate)}, seconds, **options
        )
        return sent[""]


@asynccontextmanager
async def serving(answer) -> AsyncIterator[Server]:
    server = Server(answer)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = "http://{}:{}".format(*listening.sockets[0].getsockname())
    async with listening:
        yield server


def always(*parts: bytes):
    async def answer(_: int, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return answer


async def test_every_arrival_is_sent_once_and_counted():
    async with serving(always(response())) as server:
        load = await server.load()
    assert load.answers == len(server.photos) > 50
    assert load.offered == pytest.approx(len(server.photos) / 0.1)
    assert (load.failures, load.lost, load.unanswered, load.others) == (0, 0, 0, {})
    assert 0 < load.p50_s <= load.p99_s
    assert load.late_s >= 0


async def test_photos_take_turns():
    async with serving(always(response())) as server:
        await server.load()
    assert abs(server.photos.count(b"one") - server.photos.count(b"another")) <= 1


async def test_streams_have_their_own_photos_rates_and_results():
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(response(200 if server.photos[number] == b"good" else 415))

    async with serving(answer) as server:
        streams = {"good": ([b"good"], 2000.0), "bad": ([b"bad"], 500.0)}
        sent = await asyncio.to_thread(open_loop, server.url, streams, 0.1)
    good, bad = server.photos.count(b"good"), server.photos.count(b"bad")
    assert good > 2 * bad > 0
    assert (sent["good"].answers, sent["good"].failures) == (good, 0)
    assert (sent["bad"].answers, sent["bad"].others) == (0, {415: bad})


async def test_a_stream_without_arrivals_has_no_result():
    sent = await asyncio.to_thread(open_loop, "http://127.0.0.1:1", {"": (PHOTOS, 1e-9)}, 0.01)
    assert sent == {}


async def test_it_sends_while_no_answer_has_come():
    """A closed loop would wait for ever: the server answers when the last request has come."""
    async with serving(always(response())) as server:
        count = (await server.load()).answers
    held: list[asyncio.StreamWriter] = []

    async def answer(_: int, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        if len(held) == count:
            for each in held:
                each.write(response())

    async with serving(answer) as server:
        load = await server.load()
    assert (load.answers, server.connections) == (count, count)


async def test_an_idle_connection_carries_the_next_request():
    async with serving(always(response())) as server:
        load = await server.load(rate=200, seconds=0.3)
    assert server.connections < load.answers


async def test_an_answer_in_pieces_is_one_answer():
    text = response()
    async with serving(always(*(text[n : n + 1] for n in range(len(text))))) as server:
        load = await server.load()
    assert (load.answers, load.failures) == (len(server.photos), 0)


async def test_latency_includes_the_time_that_the_server_takes():
    took: list[float] = []

    async def answer(_: int, writer: asyncio.StreamWriter) -> None:
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(0.05)
        took.append(asyncio.get_running_loop().time() - began)
        writer.write(response())

    async with serving(answer) as server:
        load = await server.load()
    assert load.p50_s >= min(took)


async def test_answers_after_the_deadline_are_overdue():
    async with serving(always(response())) as server:
        assert (await server.load(deadline_s=0)).overdue == len(server.photos)
        assert (await server.load(deadline_s=math.inf)).overdue == 0


async def test_answers_after_the_end_do_not_add_to_the_rate():
    released = asyncio.Event()
    began: list[float] = []

    async def answer(_: int, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        if not began:
            began.append(loop.time())
            # The first request comes before the end of the load, so this is after it.
            loop.call_later(0.15, released.set)
        await released.wait()
        writer.write(response())

    async with serving(answer) as server:
        load = await server.load(seconds=0.1)
    assert load.answers == len(server.photos)
    assert (load.answers_by_end, load.rate) == (0, 0.0)


async def test_a_refusal_that_says_when_to_retry_is_proper():
    async with serving(always(response(503, PROBLEM))) as server:
        load = await server.load()
    assert load.refusals == load.failures == len(server.photos)
    assert (load.improper, load.others) == (0, {})
    assert load.refused_p99_s > 0
    assert math.isnan(load.p99_s)


@pytest.mark.parametrize(
    "headers",
    [
        "",
        "content-type: application/problem+json\r\n",
        "retry-after: 1\r\n",
        "content-type: text/html\r\nretry-after: 1\r\n",
    ],
)
async def test_a_refusal_without_retry_after_or_problem_json_is_improper(headers):
    async with serving(always(response(503, headers))) as server:
        load = await server.load()
    assert load.improper == load.refusals == len(server.photos)


async def test_names_of_headers_may_have_capitals():
    headers = "Content-Type: application/problem+json; charset=utf-8\r\nRetry-After: 1\r\n"
    async with serving(always(response(503, headers))) as server:
        assert (await server.load()).improper == 0


async def test_other_statuses_are_counted_by_status():
    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(response(504 if number % 2 else 500))

    async with serving(answer) as server:
        load = await server.load()
    count = len(server.photos)
    assert load.others == {500: (count + 1) // 2, 504: count // 2}
    assert load.failures == count


async def test_a_connection_that_the_server_closes_is_not_used_again():
    async with serving(always(response(200, "connection: close\r\n"))) as server:
        load = await server.load()
    assert load.answers == len(server.photos) == server.connections


async def test_an_answer_without_a_length_counts_and_ends_its_connection():
    async with serving(always(b"HTTP/1.1 500 X\r\n\r\n<html>")) as server:
        load = await server.load()
    assert load.others == {500: len(server.photos)}
    assert server.connections == len(server.photos)


async def test_a_request_whose_connection_closes_is_lost():
    async def answer(_: int, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with serving(answer) as server:
        load = await server.load()
    assert load.lost == load.failures == len(server.photos)


async def test_a_refused_connection_is_a_lost_request():
    async with serving(always(response())) as server:
        pass  # from here on, no one listens on its port
    load = await server.load()
    assert load.lost == load.failures > 0


async def test_requests_without_an_answer_are_given_up_at_last():
    async with serving(always()) as server:
        load = await server.load(wait_s=0.01)
    assert load.unanswered == load.failures > 0
    assert load.lost == 0


async def send_all(server: Server, most: int) -> Client:
    client = Client("127.0.0.1", int(server.url.rpartition(":")[2]), count=20, most=most)
    for number in range(20):
        client.send(number, b"POST /v1/classify HTTP/1.1\r\nContent-Type: image/jpeg\r\n"
                            b"Content-Length: 0\r\n\r\n")  # fmt: skip
    await client.finished.wait()
    client.close()
    return client


async def test_requests_wait_for_a_connection_when_the_most_are_open():
    async with serving(always(response())) as server:
        outcomes = (await send_all(server, most=2)).outcomes
    assert server.connections == 2
    assert outcomes.status.tolist() == [200] * 20
    assert outcomes.waited.tolist() == [False] * 2 + [True] * 18


@pytest.mark.parametrize("headers", ["", "connection: close\r\n"])
async def test_requests_that_wait_leave_in_order(headers):
    async with serving(always(response(200, headers))) as server:
        outcomes = (await send_all(server, most=1)).outcomes
    assert sorted(outcomes.left_s) == outcomes.left_s.tolist()


async def test_requests_that_wait_for_a_refused_connection_are_lost():
    async with serving(always(response())) as server:
        pass
    assert (await send_all(server, most=2)).outcomes.status.tolist() == [LOST] * 20
