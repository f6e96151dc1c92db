"""Claims about the line that each request gets in the log."""

import asyncio
import json
import logging
from logging.handlers import MemoryHandler, RotatingFileHandler

import httpx
import pytest
from played import PlayedPipeline
from recording import Recording

from deployments.errors import Overloaded
from deployments.http.api import build_api
from deployments.http.disconnects import Disconnects
from deployments.http.photo_route import Telemetry
from deployments.messages import Trace
from deployments.pipeline.dispatcher import Dispatched
from deployments.settings import RequestLogSettings, Settings
from deployments.telemetry.catalogue import STAGE_DURATION
from deployments.telemetry.request_log import Entry, RequestLog, request_log_file
from mlc_core.errors import UndecodablePhoto

TRACE = Trace(
    {"decode": 0.1, "images_queue": 0.02, "inference": 0.3, "encode": 0.004}, 7, "fashion/1"
)


class Lines(logging.Handler):
    """What a file would hold."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines += record.getMessage().splitlines()


class Pipeline(PlayedPipeline):
    """Answers as the bytes ask, with the trace of a group."""

    def submit(self, data, _choice, _request_id):
        future = asyncio.get_running_loop().create_future()
        if data == b"refused":
            future.set_exception(Overloaded("too many"))
        else:
            answer = UndecodablePhoto("truncated") if data == b"bad" else b"{}"
            future.set_result(Dispatched(answer, "small_photos_queue", 0.05, TRACE))
        return future


def request_log(settings, handler):
    return RequestLog(settings, handler, Recording())


async def written(settings, *requests):
    """The lines of some requests: (method, path, keywords of httpx)."""

    async def describe():
        return {}

    lines = Lines()
    log = request_log(settings, lines)
    telemetry = Telemetry(Recording(), log)
    app = build_api(Pipeline(), describe, lambda: None, Settings(), telemetry, Disconnects())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        for method, path, keywords in requests:
            await client.request(method, path, **keywords)
    await log.flush()
    return [json.loads(line) for line in lines.lines]


def photo(data, request_id="shop-7"):
    return (
        "POST",
        "/v1/classify?top_k=2",
        {"content": data, "headers": {"X-Request-ID": request_id}},
    )


async def test_a_request_gets_one_line_that_says_where_its_time_went():
    (line,) = await written(RequestLogSettings(), photo(b"good"))
    assert {key: line[key] for key in ("level", "request_id", "route", "status")} == {
        "level": "info", "request_id": "shop-7", "route": "/v1/classify", "status": 200,
    }  # fmt: skip
    assert (line["photos"], line["batch_size"], line["model"]) == (1, 7, "fashion/1")
    assert set(line["stages_s"]) == {
        "read", "small_photos_queue", "decode", "images_queue", "inference", "encode",
    }  # fmt: skip
    assert (line["stages_s"]["small_photos_queue"], line["stages_s"]["inference"]) == (0.05, 0.3)
    assert 0 <= line["duration_s"] < 10
    assert line["time"].endswith("+00:00")


async def test_a_line_never_holds_a_photos_bytes_or_a_made_up_path():
    lines = await written(
        RequestLogSettings(), photo(b"SECRET PHOTO"), ("GET", "/made/up?token=SECRET", {})
    )
    assert "SECRET" not in json.dumps(lines)
    assert [line["route"] for line in lines] == ["/v1/classify", "other"]


@pytest.mark.parametrize(
    ("data", "level", "status", "problem"),
    [(b"bad", "warning", 422, "undecodable-photo"), (b"refused", "error", 503, "overloaded")],
)
async def test_a_problem_is_named_and_is_a_line_of_its_level(data, level, status, problem):
    (line,) = await written(RequestLogSettings(), photo(data))
    assert (line["level"], line["status"], line["problem"]) == (level, status, problem)


@pytest.mark.parametrize(
    ("level", "kept"),
    [("info", [200, 422, 503]), ("warning", [422, 503]), ("error", [503]), ("off", [])],
)
async def test_the_level_is_the_least_that_is_written(level, kept):
    requests = [photo(data) for data in (b"good", b"bad", b"refused")]
    lines = await written(RequestLogSettings(level=level), *requests)
    assert [line["status"] for line in lines] == kept


async def test_a_sample_is_chosen_by_the_request_id_and_no_problem_is_left_out():
    requests = [photo(data, f"id-{n}") for n in range(200) for data in (b"good", b"bad")]
    first, again = [await written(RequestLogSettings(sample=0.25), *requests) for _ in range(2)]
    ids = [line["request_id"] for line in first if line["status"] == 200]
    assert 20 < len(ids) < 80
    assert ids == [line["request_id"] for line in again if line["status"] == 200]
    assert sum(line["status"] == 422 for line in first) == 200
    assert len(await written(RequestLogSettings(sample=0.0), photo(b"good"))) == 0


async def test_a_batch_is_one_line_with_its_photos_and_the_longest_of_each_stage():
    files = [("images", b"good")] * 3
    (line,) = await written(RequestLogSettings(), ("POST", "/v1/classify/batch", {"files": files}))
    assert (line["photos"], line["batch_size"]) == (3, 7)
    entry = Entry("id", "/v1/classify")
    entry.photos = 2
    entry.traces = [TRACE, TRACE._replace(stages_s={"decode": 0.9, "inference": 0.1}, batch_size=2)]
    lines = Lines()
    log = request_log(RequestLogSettings(), lines)
    entry.status = 200
    log.end(entry)
    await log.flush()
    (line,) = map(json.loads, lines.lines)
    assert (line["stages_s"]["decode"], line["stages_s"]["inference"], line["batch_size"]) == (
        0.9,
        0.3,
        7,
    )


async def test_an_id_that_is_no_plain_text_cant_break_a_line():
    (line,) = await written(
        RequestLogSettings(), photo(b"good", 'a"}\u2028{"b'.encode("latin-1", "replace"))
    )
    assert line["status"] == 200


async def test_lines_reach_the_file_by_the_clock():
    lines = Lines()
    log = request_log(RequestLogSettings(), lines)
    flushing = asyncio.create_task(log.keep_flushing())
    log.end(Entry("id", "/v1/classify"))
    async with asyncio.timeout(5):
        while not lines.lines:
            await asyncio.sleep(0.01)
    flushing.cancel()


@pytest.fixture
def serves_log(tmp_path):
    """Serve's logger as it is in a replica: a buffer in front of a file that rotates."""
    logger = logging.getLogger("ray.serve")
    before = logger.handlers[:]
    file = RotatingFileHandler(
        tmp_path / "replica_mlc_Ingress_ab12.log", maxBytes=1000, backupCount=2
    )
    logger.handlers[:] = [logging.StreamHandler(), MemoryHandler(1, target=file)]
    yield
    logger.handlers[:] = before
    file.close()


async def test_the_file_is_beside_serves_own_and_rotates_as_that_does(serves_log, tmp_path):
    handler = request_log_file()
    log = request_log(RequestLogSettings(), handler)
    for _ in range(100):
        log.end(Entry("id", "/v1/classify"))
        await log.flush()
    handler.close()
    files = sorted(file.name for file in tmp_path.glob("requests_*"))
    assert files == [f"requests_mlc_Ingress_ab12.log{end}" for end in ("", ".1", ".2")]
    assert all(file.stat().st_size <= 1000 for file in tmp_path.glob("requests_*"))


async def test_the_slowest_upload_since_the_last_flush_is_a_stage():
    recorder = Recording()
    log = RequestLog(RequestLogSettings(level="off"), Lines(), recorder)
    for read_s in (0.1, 0.3, 0.2):
        entry = Entry("id", "/v1/classify")
        entry.stages_s["read"] = read_s
        log.end(entry)
    await log.flush()
    await log.flush()
    assert recorder.values(STAGE_DURATION, stage="read") == [0.3]
