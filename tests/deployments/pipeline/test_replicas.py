"""Claims about the data plane: real connections on this machine, between a listener and callers."""

import asyncio
import contextlib
import secrets
import socket
import uuid

import pytest

from deployments.errors import DeadlinePassed, Overloaded
from deployments.messages import Deadline, GroupAnswers, Photo, PhotoGroup, Trace
from deployments.pipeline.calls import Target
from deployments.pipeline.connection import SECRET_BYTES
from deployments.pipeline.listener import Listener
from deployments.pipeline.replicas import Replica, ReplicaLost, Replicas, publish
from deployments.pipeline.wire import (
    HEADER,
    MAX_HEAD_BYTES,
    PROTOCOL,
    decode_photos,
    encode_photos,
)
from deployments.settings import LISTEN_HOST
from mlc_core.labels import Choice

pytestmark = pytest.mark.timeout(30)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setenv(LISTEN_HOST, "127.0.0.1")


def group(*photos, left_s=30.0):
    return PhotoGroup([Photo(data, Choice(), "id") for data in photos], Deadline.after(left_s))


class Upstream:
    """A replica that answers each photo with its bytes; it may be told to wait, or to fail."""

    def __init__(self, name=b""):
        self.name, self.started, self.go_on = name, asyncio.Event(), asyncio.Event()
        self.go_on.set()
        self.error, self.held = None, 0
        self.group, self.answer_with, self.trace = None, None, Trace({}, 1, "m")
        self.listener = Listener(self.answer, decode_photos, lambda sent: len(sent.photos))

    async def answer(self, sent):
        self.held += 1
        self.group = sent
        self.started.set()
        await self.go_on.wait()
        self.held -= 1
        if self.error:
            raise self.error
        answers = [self.answer_with or self.name + photo.data for photo in sent.photos]
        return GroupAnswers(answers, self.trace)


@contextlib.asynccontextmanager
async def upstream(name=b""):
    replica = Upstream(name)
    metadata = await replica.listener.start()
    try:
        yield replica, metadata
    finally:
        replica.go_on.set()
        await replica.listener.close()


async def connected(metadata):
    replica = Replica(metadata)
    await replica.connect()
    return replica


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def send_raw(metadata, data):
    """What a stranger gets back until the listener closes."""
    reader, writer = await asyncio.open_connection(metadata["host"], metadata["port"])
    writer.write(data)
    try:
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_many_calls_share_a_connection_and_get_their_own_answers():
    async with upstream() as (_, metadata):
        caller = await connected(metadata)
        data = [secrets.token_bytes(size) for size in (0, 1, 70_000, 3_000_000)] * 5
        replies = await asyncio.gather(*(caller.call(encode_photos, group(d)) for d in data))
        assert [reply.answers for reply in replies] == [[d] for d in data]
        assert caller.in_flight == 0


async def test_the_error_of_a_replica_answers_its_group():
    async with upstream() as (replica, metadata):
        replica.error = Overloaded("full")
        reply = await (await connected(metadata)).call(encode_photos, group(b"a", b"b"))
        assert [type(answer) for answer in reply.answers] == [Overloaded, Overloaded]


async def test_a_stranger_is_cut_off_before_a_byte_is_parsed():
    async with upstream() as (replica, metadata):
        secret = bytes.fromhex(metadata["secret"])
        frame = HEADER.pack(0, 0, 0)
        for greeting in (
            PROTOCOL + bytes(SECRET_BYTES),  # a wrong secret
            PROTOCOL[:-1] + b"\xff" + secret,  # another version
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + bytes(20),
        ):
            assert await send_raw(metadata, greeting + frame) == b""
        assert not replica.started.is_set()


@pytest.mark.parametrize(
    "frame",
    [
        HEADER.pack(0, 2**31, 0),
        HEADER.pack(0, 1, 2**31),
        HEADER.pack(0, 4, 0) + b"\xc1\xc1\xc1\xc1",
        HEADER.pack(0, 0, 0),
    ],
    ids=["a head over the limit", "a payload over the limit", "no MessagePack", "no head"],
)
async def test_garbage_closes_its_connection_and_no_other(frame):
    async with upstream() as (replica, metadata):
        good = await connected(metadata)
        secret = bytes.fromhex(metadata["secret"])
        assert await send_raw(metadata, PROTOCOL + secret + frame) in (b"", PROTOCOL)
        assert not replica.started.is_set()
        assert (await good.call(encode_photos, group(b"a"))).answers == [b"a"]


async def test_a_frame_that_comes_byte_by_byte_is_answered():
    async with upstream() as (replica, metadata):
        head, payload = encode_photos(group(b"slow"))
        frame = HEADER.pack(7, len(head), 4) + head + b"".join(payload)
        reader, writer = await asyncio.open_connection(metadata["host"], metadata["port"])
        for byte in PROTOCOL + bytes.fromhex(metadata["secret"]) + frame:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        assert await reader.readexactly(len(PROTOCOL)) == PROTOCOL
        call, head_bytes, payload_bytes = HEADER.unpack(await reader.readexactly(HEADER.size))
        assert call == 7
        rest = await reader.readexactly(head_bytes + payload_bytes)
        assert rest.endswith(b"slow")
        assert replica.started.is_set()
        writer.close()


async def test_a_call_whose_replica_is_gone_is_lost_at_once():
    async with upstream() as (replica, metadata):
        replica.go_on.clear()
        caller = await connected(metadata)
        call = asyncio.ensure_future(caller.call(encode_photos, group(b"a")))
        await replica.started.wait()
        for connection in replica.listener._connections:
            connection._transport.abort()  # as the kernel does when the process is killed
        with pytest.raises(ReplicaLost):
            await call
        assert not caller.takes_new
        with pytest.raises(ReplicaLost):
            await caller.call(encode_photos, group(b"a"))


@pytest.mark.parametrize(("said", "begun"), [((0, 1), 1), ((0, 1, 2, None), None)])
async def test_a_careful_group_that_is_lost_says_which_photo_had_begun(said, begun):
    async with upstream() as (replica, metadata):
        replica.go_on.clear()
        caller = await connected(metadata)
        sent = group(b"a", b"b", b"c")._replace(careful=True)
        call = asyncio.ensure_future(caller.call(encode_photos, sent))
        await replica.started.wait()
        await replica.group.begins(0)
        await until(lambda: caller._begun == {0: 0})
        for number in said:
            await replica.group.begins(number)
        await until(lambda: caller._begun == ({} if begun is None else {0: begun}))
        for connection in replica.listener._connections:
            connection._transport.abort()
        with pytest.raises(ReplicaLost) as lost:
            await call
        assert lost.value.begun == begun


async def test_a_listener_that_closes_says_goodbye_and_finishes_what_it_has():
    async with upstream() as (replica, metadata):
        replica.go_on.clear()
        caller = await connected(metadata)
        call = asyncio.ensure_future(caller.call(encode_photos, group(b"a")))
        await replica.started.wait()
        closing = asyncio.ensure_future(replica.listener.close())
        await until(lambda: not caller.takes_new)
        assert not call.done()
        replica.go_on.set()
        assert (await call).answers == [b"a"]
        await closing
        with pytest.raises(RuntimeError, match="no longer listens"):
            replica.listener.check()


async def test_a_call_that_was_given_up_counts_until_its_answer_comes():
    async with upstream() as (replica, metadata):
        replica.go_on.clear()
        caller = await connected(metadata)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await caller.call(encode_photos, group(b"late"))
        assert caller.in_flight == 1  # a replica that hangs does not look idle
        replica.go_on.set()
        assert (await caller.call(encode_photos, group(b"next"))).answers == [b"next"]
        assert caller.in_flight == 0


async def test_a_group_is_answered_by_its_deadline_whatever_its_handler_does():
    async with upstream() as (replica, metadata):
        replica.go_on.clear()
        reply = await (await connected(metadata)).call(encode_photos, group(b"a", left_s=0.05))
        assert [type(answer) for answer in reply.answers] == [DeadlinePassed]


async def test_an_answer_that_does_not_fit_in_a_frame_is_an_error_and_hurts_no_other():
    async with upstream() as (replica, metadata):
        caller = await connected(metadata)
        replica.trace = Trace({}, 1, "m" * MAX_HEAD_BYTES)
        (answer,), _ = await caller.call(encode_photos, group(b"a"))
        assert isinstance(answer, ValueError)
        assert "over the limit" in str(answer)
        replica.trace = Trace({}, 1, "m")
        assert (await caller.call(encode_photos, group(b"b"))).answers == [b"b"]


async def test_a_group_that_does_not_fit_in_a_frame_hurts_no_other():
    async with upstream() as (_, metadata):
        caller = await connected(metadata)
        huge = PhotoGroup([Photo(b"", Choice(), "i" * MAX_HEAD_BYTES)], Deadline.after(30))
        with pytest.raises(ValueError, match="over the limit"):
            await caller.call(encode_photos, huge)
        assert caller.in_flight == 0
        assert (await caller.call(encode_photos, group(b"b"))).answers == [b"b"]


async def test_an_answer_that_was_cancelled_is_an_error():
    async with upstream() as (replica, metadata):
        replica.answer_with = asyncio.CancelledError()
        (answer,), _ = await (await connected(metadata)).call(encode_photos, group(b"a"))
        assert isinstance(answer, RuntimeError)


async def test_a_caller_that_knows_another_secret_is_told_at_once():
    async with upstream() as (_, metadata):
        with pytest.raises(ConnectionError, match="secret"):
            await connected(metadata | {"secret": bytes(SECRET_BYTES).hex()})


async def test_a_process_that_only_the_kernel_answers_for_is_not_connected(monkeypatch):
    monkeypatch.setattr("deployments.pipeline.replicas._CONNECTED_WITHIN_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as stopped:  # it listens, and accepts nothing
        host, port = stopped.getsockname()
        with pytest.raises(TimeoutError):
            await connected({"host": host, "port": port, "secret": bytes(SECRET_BYTES).hex()})


class ByHandle:
    """A deployment's handle, which answers when no replica is connected."""

    def __init__(self, of_another_protocol=0):
        self.deployment_id, self.calls = uuid.uuid4().hex, 0
        self.replica = Upstream()
        self.replica.answer_with = b"by handle"
        self.of_another_protocol = of_another_protocol

    def options(self, *_, **__):
        return self

    async def remote(self, protocol, head, payload):
        self.calls += 1
        if self.calls <= self.of_another_protocol:
            protocol = b"MLC\0"
        return await self.replica.listener.answer_frame(protocol, head, payload)


async def listed(handle, *metadata):
    """A target that is connected to these replicas."""
    target = Target(handle, encode_photos)
    publish(handle.deployment_id, {str(i): each for i, each in enumerate(metadata)})
    await until(lambda: len(target._replicas._replicas) == len(metadata))
    return target


async def test_groups_go_by_handle_until_a_replica_is_connected():
    handle = ByHandle()
    target = Target(handle, encode_photos)
    assert (await target(group(b"a"))).answers == [b"by handle"]
    async with upstream() as (_, metadata):
        target = await listed(handle, metadata)
        assert (await target(group(b"a"))).answers == [b"a"]
        assert handle.calls == 1


async def test_a_replica_of_another_protocol_reads_nothing_and_the_group_waits_for_its_successor():
    handle = ByHandle(of_another_protocol=2)
    assert (await Target(handle, encode_photos)(group(b"a"))).answers == [b"by handle"]
    assert handle.calls == 3
    assert handle.replica.held == 0


async def test_an_error_by_handle_answers_its_group():
    handle = ByHandle()
    handle.replica.error = Overloaded("full")
    reply = await Target(handle, encode_photos)(group(b"a", b"b"))
    assert [type(answer) for answer in reply.answers] == [Overloaded, Overloaded]


async def test_a_group_whose_replica_dies_is_answered_by_another():
    handle = ByHandle()
    async with upstream(b"1") as (one, first), upstream(b"2") as (two, second):
        one.go_on.clear(), two.go_on.clear()
        target = await listed(handle, first, second)
        call = asyncio.ensure_future(target(group(b"a")))
        await until(lambda: one.started.is_set() or two.started.is_set())
        dying, other = (one, two) if one.started.is_set() else (two, one)
        for connection in dying.listener._connections:
            connection._transport.abort()
        other.go_on.set()
        assert (await call).answers == [other.name + b"a"]
        assert handle.calls == 0


async def test_a_group_goes_to_the_replica_with_the_fewest_in_flight():
    handle = ByHandle()
    async with upstream() as (one, first), upstream() as (two, second):
        one.go_on.clear(), two.go_on.clear()
        target = await listed(handle, first, second)
        calls = [asyncio.ensure_future(target(group(b"a"))) for _ in range(6)]
        await until(lambda: one.held + two.held == 6)
        assert (one.held, two.held) == (3, 3)
        one.go_on.set(), two.go_on.set()
        await asyncio.gather(*calls)


async def test_a_replica_that_is_not_listed_gets_nothing_new_but_finishes():
    handle = ByHandle()
    async with upstream() as (replica, metadata):
        replica.go_on.clear()
        target = await listed(handle, metadata)
        call = asyncio.ensure_future(target(group(b"a")))
        await replica.started.wait()
        publish(handle.deployment_id, {})
        await until(lambda: target._replicas.choose() is None)
        replica.go_on.set()
        assert (await call).answers == [b"a"]


async def test_an_address_that_does_not_answer_leaves_the_way_by_handle(caplog):
    handle = ByHandle()
    async with upstream() as (_, metadata):
        gone = metadata
    target = Target(handle, encode_photos)
    publish(handle.deployment_id, {"gone": gone})
    await until(lambda: "replica gone go by Serve's handle" in caplog.text)
    assert (await target(group(b"a"))).answers == [b"by handle"]


async def test_a_connection_that_broke_is_made_again_while_the_replica_is_listed():
    handle = ByHandle()
    async with upstream() as (replica, metadata):
        target = await listed(handle, metadata)
        for connection in replica.listener._connections:
            connection._transport.abort()
        await until(lambda: target._replicas.choose() is None)
        await until(lambda: target._replicas.choose() is not None)
        assert (await target(group(b"a"))).answers == [b"a"]
        assert handle.calls == 0


async def test_a_follower_is_called_from_any_thread():
    replicas = Replicas("from a thread")
    async with upstream() as (_, metadata):
        await asyncio.to_thread(publish, "from a thread", {"0": metadata})
        await until(lambda: replicas.choose() is not None)
