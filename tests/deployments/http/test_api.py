"""Claims about the HTTP contract, without a cluster: the way to the classifier is played."""

import asyncio
import json
import logging

import httpx
import pytest
import uvicorn
from recording import Recording

from deployments.errors import ClientLeft, DeadlinePassed, Overloaded, ServiceError, Unavailable
from deployments.http.api import build_api
from deployments.http.disconnects import Disconnects
from deployments.http.photo_route import Telemetry
from deployments.messages import Trace
from deployments.pipeline.dispatcher import Dispatched
from deployments.settings import EndpointSettings, Limits, RequestLogSettings, Settings
from deployments.telemetry.catalogue import PHOTOS_ANSWERED, PROBLEMS, REQUEST_DURATION
from deployments.telemetry.request_log import RequestLog
from mlc_core.errors import PhotoTooCostly, PhotoTooLarge, UndecodablePhoto, UnsupportedFormat
from mlc_core.labels import Choice

SETTINGS = Settings(
    limits=Limits(max_photo_bytes=1000, max_request_photos=3, max_request_bytes=5000),
    upload_timeout_s=0.2,
    retry_after_s=7,
)


class Pipeline:
    """Answers each photo with what a test planned for its bytes."""

    def __init__(self):
        self.planned = {}
        self.asked = []
        self.refused = None

    def refusal(self, _size_bytes):
        return self.refused

    def submit(self, data, choice, request_id):
        self.asked.append((data, choice))
        planned = self.planned.get(data, b'{"photo":"%s"}' % data)
        future = asyncio.get_running_loop().create_future()
        if isinstance(planned, ServiceError):  # as the dispatcher raises it
            future.set_exception(planned)
        else:
            trace = Trace({}, 1, "fashion/1")
            future.set_result(Dispatched(planned, "small_photos_queue", 0.0, trace))
        return future

    async def wait(self, submitted):
        return await submitted

    async def wait_for_all(self, submitted):
        return await asyncio.gather(*submitted, return_exceptions=True)


class Application:
    """The application around a pipeline, and a client of it."""

    def __init__(self, pipeline, settings=SETTINGS, not_ready=lambda: None, root_path=""):
        self.recorder = Recording()
        self.log = RequestLog(RequestLogSettings(), logging.NullHandler(), self.recorder)
        telemetry = Telemetry(self.recorder, self.log)
        self.disconnects = Disconnects()
        self.app = build_api(
            pipeline, self._describe, not_ready, settings, telemetry, self.disconnects
        )
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, root_path=root_path)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://service")

    async def _describe(self):
        return {"name": "fashion", "heads": {"color": ["Red", "Blue"]}}


@pytest.fixture
def photos():
    return Pipeline()


@pytest.fixture
def application(photos):
    return Application(photos)


@pytest.fixture
def client(application):
    return application.client


async def problem(response, status):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    details = response.json()
    assert details["status"] == status
    assert set(details) == {"type", "title", "status", "detail", "request_id"}
    return details


@pytest.mark.parametrize(
    "declared",
    [None, "image/jpeg", "image/heic", "application/octet-stream", "binary/octet-stream", "*/*",
     "text/plain", "no type", "application/x-www-form-urlencoded"],
)  # fmt: skip
async def test_a_raw_body_is_a_photo_whatever_it_is_declared_as(client, declared):
    headers = {"content-type": declared} if declared else {}
    response = await client.post("/v1/classify", content=b"bytes", headers=headers)
    assert (response.status_code, response.json()) == (200, {"photo": "bytes"})


async def test_a_form_field_image_is_a_photo(client):
    response = await client.post("/v1/classify", files={"image": b"bytes"})
    assert response.json() == {"photo": "bytes"}


JPEG = b"\xff\xd8 bytes"


def form_of(*written):
    """A request whose form has these parts; each is a disposition, other headers and a content."""
    parts = [
        b"--B\r\nContent-Disposition: form-data; "
        + b"\r\n".join([disposition, *more, b"", content])
        for disposition, *more, content in written
    ]
    headers = {"content-type": "multipart/form-data; boundary=B"}
    return {"content": b"\r\n".join([*parts, b"--B--\r\n"]), "headers": headers}


PHOTO = (b'name="image"; filename="p.jpg"', b"Content-Type: image/jpeg", JPEG)
LEFT_EMPTY = (b'name="other"; filename=""', b"Content-Type: application/octet-stream", b"")
TEXT = (b'name="note"', b"a red dress")


@pytest.mark.parametrize(
    "parts",
    [
        [PHOTO],
        [PHOTO, LEFT_EMPTY, LEFT_EMPTY, TEXT],
        [TEXT, TEXT, LEFT_EMPTY, PHOTO],
        [PHOTO, (b'name="image"; filename=""', b"")],
        [(b'name="image"', b""), PHOTO],
        [PHOTO, (b'name="image"; filename="empty.jpg"', b"")],
        [PHOTO, (b'name="mask"; filename="m.png"', b"Content-Type: image/png", b"another file")],
        [(b"name=\"image\"; filename*=utf-8''Gr%C3%B6%C3%9Fe.jpg", JPEG)],
        [(b'name="image"', b"Content-Type: image/jpeg", JPEG)],
        [(b"name=image", JPEG)],
        [(b'name="image"', b"Content-Type: text/plain", JPEG)],
        [(b'name="image"', b"content-transfer-encoding: base64", b"/9ggYnl0ZXM=")],
    ],
)  # fmt: skip
async def test_the_photo_of_a_form_is_found_as_clients_send_it(client, photos, parts):
    response = await client.post("/v1/classify", **form_of(*parts))
    assert response.status_code == 200, response.text
    assert photos.asked == [(JPEG, Choice())]


async def test_a_photo_without_a_file_name_may_be_as_large_as_any(photos):
    client = Application(photos, Settings()).client
    large = b"\xff\xd8".ljust(3 * 2**20, b"x")
    response = await client.post("/v1/classify", **form_of((b'name="image"', large)))
    assert response.status_code == 200
    assert photos.asked[0][0] == large


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ((b'name="image"', b"tshirt.jpg"), "has text in the field 'image'; send a file (with curl"),
        ((b'name="image"', "Größe.jpg".encode()), "text in the field 'image'"),
        ((b'name="photo"; filename="p.jpg"', JPEG), "nothing in the field 'image', only 'photo'"),
        ((b'name="image"; filename=""', b""), "nothing in the field 'image'; send a file"),
        ((b'name="image"; filename="p.jpg"', b""), "there is no photo in the request"),
        ((b'name="image"', b"Content-Transfer-Encoding: x-gzip64", JPEG), "Encoding 'x-gzip64'"),
        ((b'name="' + b"n" * 999 + b'"', b"x"), "only 'nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn…'"),
    ],
)  # fmt: skip
async def test_a_form_without_a_photo_is_refused_with_what_to_do(client, part, says):
    details = await problem(await client.post("/v1/classify", **form_of(part)), 400)
    assert says in details["detail"]


async def test_a_batch_takes_its_photos_from_among_other_fields(client, photos):
    def photo(content, name=b'; filename="p.jpg"'):
        return (b'name="images"' + name, content)

    parts = [TEXT, photo(b"a"), LEFT_EMPTY, photo(b"", b'; filename=""'), photo(b"\xff", b""), TEXT]
    response = await client.post("/v1/classify/batch", **form_of(*parts))
    assert response.status_code == 200
    assert [data for data, _ in photos.asked] == [b"a", b"\xff"]


async def test_the_query_chooses_the_labels(client, photos):
    query = "top_k=20&min_confidence=0.5&precision=0.95&consistent=false"
    await client.post(f"/v1/classify?{query}", content=b"x")
    await client.post("/v1/classify?consistent=true", content=b"x")
    assert photos.asked == [(b"x", Choice(20, 0.5, 0.95, consistent=False)), (b"x", Choice())]


@pytest.mark.parametrize(
    "query",
    ["top_k=0", "top_k=21", "top_k=1.5", "top_k=", "top_k=²", "top_k=-1", "top_k=1e400", "top_k=05",
     "top_k=1_0", "top_k=%2B5", "top_k=+5", "top_k=5%20", "top_k=٣", "top_k=0x10", "top_k=5.",
     "top_k=true", "top_k=2e1_0", "top_k", "min_confidence=2", "min_confidence=nan",
     "min_confidence=-0.1", "min_confidence=much", "min_confidence=1_0", "min_confidence=0,5",
     "min_confidence=.5", "min_confidence=00.5", "min_confidence=Infinity", "min_confidence=5e",
     "min_confidence=0.5%0A", "min_confidence=0.٣", "min_confidence=" + "9" * 500,
     "precision=95", "precision=95%25", "precision=-0.1", "precision=nan", "precision=",
     "consistent=1", "consistent=False", "consistent="],
)  # fmt: skip
async def test_a_parameter_out_of_range_is_named(client, query):
    details = await problem(await client.post(f"/v1/classify?{query}", content=b"x"), 400)
    assert query.split("=")[0] in details["detail"]
    assert len(details["detail"]) < 150


@pytest.mark.parametrize(
    ("query", "choice"),
    [("top_k=5.0", Choice(5)), ("top_k=1e1", Choice(10)), ("top_k=200E-1", Choice(20)),
     ("min_confidence=5e-1", Choice(1, 0.5)), ("min_confidence=-0", Choice()),
     ("min_confidence=1.0", Choice(1, 1)), ("min_confidence=1e-999", Choice()),
     ("precision=9e-1", Choice(precision=0.9)), ("precision=0", Choice())],
)  # fmt: skip
async def test_numbers_are_numbers_as_json_has_them(client, photos, query, choice):
    assert (await client.post(f"/v1/classify?{query}", content=b"x")).status_code == 200
    assert photos.asked == [(b"x", choice)]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"content": b""},
        {"files": {"photo": b"x"}},
        {"data": {"image": "text"}, "files": {"other": b"x"}},
    ],
)
async def test_no_photo_is_malformed(client, kwargs):
    await problem(await client.post("/v1/classify", **kwargs), 400)


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=other"]
)
async def test_a_broken_form_is_malformed(client, content_type):
    headers = {"content-type": content_type}
    await problem(await client.post("/v1/classify", content=b"no form", headers=headers), 400)


async def test_two_photos_in_one_call_are_refused_with_the_call_that_takes_many(client):
    two = [("image", b"x"), ("image", b"y")]
    details = await problem(await client.post("/v1/classify", files=two), 413)
    assert "POST /v1/classify/batch takes many, in fields 'images'" in details["detail"]


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("topk=3", "did you mean top_k?"),
        ("min_confidense=0.5", "did you mean min_confidence?"),
        ("precison=0.95", "did you mean precision?"),
        ("size=5", "there are top_k, min_confidence, precision, consistent"),
        ("top_k=2&top_k=3", "top_k is given more than once"),
    ],
)
async def test_a_parameter_that_is_unknown_or_given_twice_is_refused_with_a_hint(
    client, query, hint
):
    for path in ("/v1/classify", "/v1/classify/batch"):
        response = await client.post(f"{path}?{query}", files={"images": b"x"})
        assert hint in (await problem(response, 400))["detail"]


async def test_a_body_over_the_limit_is_refused_declared_or_not(client, photos):
    async def chunks():
        for _ in range(20):
            yield b"x" * 100

    await problem(await client.post("/v1/classify", content=b"x" * 1001), 413)
    await problem(await client.post("/v1/classify", content=chunks()), 413)
    await problem(await client.post("/v1/classify", files={"image": b"x" * 1001}), 413)
    assert photos.asked == []


async def test_an_upload_that_stalls_is_given_up(client):
    async def stalls():
        yield b"x"
        await asyncio.Event().wait()

    await problem(await client.post("/v1/classify", content=stalls()), 408)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnsupportedFormat("no image"), 415),
        (UndecodablePhoto("truncated"), 422),
        (PhotoTooLarge("too many pixels"), 422),
        (PhotoTooCostly("too many scans"), 422),
        (Overloaded("full"), 503),
        (Unavailable("gone"), 503),
        (DeadlinePassed("late"), 504),
    ],
)
async def test_each_error_has_its_status_and_says_why(client, photos, error, status):
    photos.planned[b"x"] = error
    response = await client.post("/v1/classify", content=b"x", headers={"x-request-id": "r1"})
    details = await problem(response, status)
    assert (details["detail"], details["request_id"]) == (str(error), "r1")
    assert response.headers.get("retry-after") == ("7" if status == 503 else None)


async def test_an_error_nobody_foresaw_tells_nothing_of_our_insides(client, photos, caplog):
    photos.planned[b"x"] = ZeroDivisionError("secret")
    response = await client.post("/v1/classify", content=b"x", headers={"x-request-id": "r1"})
    assert "secret" not in json.dumps(await problem(response, 500))
    assert "r1" in caplog.text


async def test_a_batch_answers_in_the_order_sent_and_one_bad_photo_spoils_no_other(client, photos):
    photos.planned[b"bad"] = UndecodablePhoto("truncated")
    response = await client.post(
        "/v1/classify/batch", files=[("images", photo) for photo in (b"a", b"bad", b"c")]
    )
    first, bad, last = response.json()["results"]
    assert (first, last) == ({"photo": "a"}, {"photo": "c"})
    assert (bad["status"], bad["detail"]) == (422, "truncated")


async def test_an_oversized_or_empty_photo_in_a_batch_is_a_problem_of_its_own(client):
    files = [("images", photo) for photo in (b"a", b"x" * 1001, b"")]
    results = (await client.post("/v1/classify/batch", files=files)).json()["results"]
    assert [result.get("status") for result in results] == [None, 413, 400]


@pytest.mark.parametrize("count", [4, 20])
async def test_more_photos_than_a_batch_may_carry_are_refused(client, count):
    files = [("images", b"x")] * count
    details = await problem(await client.post("/v1/classify/batch", files=files), 413)
    assert "at most 3" in details["detail"]


async def test_a_batch_without_a_form_or_a_photo_is_refused(client):
    await problem(await client.post("/v1/classify/batch", content=b"x"), 415)
    await problem(await client.post("/v1/classify/batch", files={"image": b"x"}), 400)


async def test_unknown_paths_and_methods_are_problems_too(client):
    await problem(await client.get("/nowhere"), 404)
    response = await client.get("/v1/classify")
    await problem(response, 405)
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("root_path", ["", "/shop"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/classify/"),
        ("POST", "/v1/classify/batch//"),
        ("GET", "/healthz/"),
        ("GET", ""),
    ],
)
async def test_a_slash_at_the_end_is_no_other_path_and_redirects_nobody(
    photos, root_path, method, path
):
    client = Application(photos, root_path=root_path).client
    headers = {"x-forwarded-proto": "https"}
    sent = (
        {"files": {"image" if "batch" not in path else "images": b"x"}} if method == "POST" else {}
    )
    response = await client.request(method, root_path + path, headers=headers, **sent)
    assert response.status_code == 200


async def test_the_service_is_not_ready_until_its_pipeline_answers(photos):
    client = Application(photos, not_ready=lambda: "no answer yet").client
    response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["reason"] == "no answer yet"
    assert (await client.get("/healthz")).status_code == 200


async def test_the_page_needs_nothing_from_outside(client):
    response = await client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert "http://" not in response.text
    assert "https://" not in response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]


async def test_the_page_knows_the_limits_of_one_call(client):
    assert 'data-max-photos="3" data-max-bytes="5000"' in (await client.get("/")).text


async def test_the_contract_lists_every_route(client):
    paths = (await client.get("/openapi.json")).json()["paths"]
    models = [f"/v2/models/{{model}}{version}" for version in ("", "/versions/{version}")]
    assert set(paths) == {
        "/", "/v1/classify", "/v1/classify/batch", "/v1/model", "/healthz", "/readyz",
        "/openapi.json", "/metrics", "/v2", "/v2/health/live", "/v2/health/ready",
        *(model + end for model in models for end in ("", "/ready", "/config", "/stats", "/infer")),
    }  # fmt: skip


async def test_the_contract_has_the_heads_of_the_model_in_service(client):
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    assert list(schemas["Result"]["properties"]["labels"]["properties"]) == ["color"]
    assert list(schemas["Model"]["properties"]["heads"]["properties"]) == ["color"]


async def test_requests_and_photos_are_counted_once_each_by_route_and_status(photos, application):
    photos.planned = {b"bad": UndecodablePhoto("truncated"), b"late": DeadlinePassed("late")}
    client, recorder = application.client, application.recorder
    for data in (b"good", b"bad", b"late"):
        await client.post("/v1/classify", content=data)
    files = [("images", data) for data in (b"good", b"late", b"")]
    await client.post("/v1/classify/batch", files=files)
    await client.get("/made/up")

    def counted(metric):
        return [
            (each["route"].removeprefix("/v1/classify"), each["status"])
            for each in recorder.labels(metric)
        ]

    assert counted(REQUEST_DURATION) == [
        ("", "200"), ("", "422"), ("", "504"), ("/batch", "200"), ("other", "404"),
    ]  # fmt: skip
    assert sorted(counted(PHOTOS_ANSWERED)) == [
        ("", "200"), ("", "422"), ("", "504"),
        ("/batch", "200"), ("/batch", "400"), ("/batch", "504"),
    ]  # fmt: skip
    assert [each["problem"] for each in recorder.labels(PROBLEMS)] == [
        "undecodable-photo", "deadline-passed", "deadline-passed", "malformed-request", "not-found",
    ]  # fmt: skip


async def test_a_request_with_another_method_is_no_photo(application):
    await application.client.get("/v1/classify")
    assert application.recorder.labels(PHOTOS_ANSWERED) == []


async def test_a_cancelled_request_is_a_client_that_left(photos):
    """As Serve cancels a batch request whose client hung up."""
    asked = asyncio.Event()

    async def hang(_):
        asked.set()
        await asyncio.Event().wait()

    photos.wait_for_all = hang
    application = Application(photos)
    files = {"images": b"x"}
    request = asyncio.create_task(application.client.post("/v1/classify/batch", files=files))
    await asked.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert application.recorder.labels(REQUEST_DURATION) == [
        {"route": "/v1/classify/batch", "status": "499"}
    ]
    assert application.recorder.labels(PROBLEMS) == [{"problem": "client-left"}]


async def test_under_a_route_prefix_paths_are_known_and_counted(photos):
    application = Application(photos, root_path="/shop")
    response = await application.client.post("/shop/v1/classify", content=b"good")
    assert response.status_code == 200
    assert application.recorder.labels(PHOTOS_ANSWERED) == [
        {"route": "/v1/classify", "status": "200"}
    ]


async def test_the_metrics_endpoint_can_be_switched_off(photos):
    client = Application(photos, Settings(endpoints=EndpointSettings(metrics="closed"))).client
    assert (await client.get("/metrics")).status_code == 404
    assert "/metrics" not in (await client.get("/openapi.json")).json()["paths"]


@pytest.mark.parametrize("size_bytes", [1, 200_000])  # uvicorn stops reading at 64 KiB
async def test_a_photo_whose_client_left_is_taken_back(size_bytes):
    """On a real server and a real connection: the watch asks uvicorn's own receive."""

    class Waiting(Pipeline):
        submitted: asyncio.Queue = asyncio.Queue()

        def submit(self, *_):
            future = asyncio.get_running_loop().create_future()
            self.submitted.put_nowait(future)
            return future

    pipeline = Waiting()
    application = Application(pipeline, Settings())
    config = uvicorn.Config(application.app, port=0, lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Length: {size_bytes}\r\n\r\n"
        writer.write(head.encode() + b"x" * size_bytes)
        submitted = await pipeline.submitted.get()
        for _ in range(3):  # asking changes nothing
            application.disconnects.check()
            assert not submitted.done()
        writer.close()
        while server.server_state.connections:
            await asyncio.sleep(0.01)
        application.disconnects.check()
        with pytest.raises(ClientLeft):
            await submitted
        while not application.recorder.labels(PROBLEMS):
            await asyncio.sleep(0.01)
    assert application.recorder.labels(PROBLEMS) == [{"problem": "client-left"}]
    server.force_exit = server.should_exit = True
    await serving
