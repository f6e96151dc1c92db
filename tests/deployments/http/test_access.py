"""Claims about keys, rates and other origins, over HTTP by the short cut and past it."""

import asyncio
import json
import logging
import random
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httpx
import pytest
import uvicorn
from openapi_spec_validator import validate
from recording import Recording

from deployments.errors import Overloaded
from deployments.http import access, middleware
from deployments.http.access import Access, Client
from deployments.http.api import BATCH, build_api
from deployments.http.disconnects import Disconnects
from deployments.http.middleware import middlewares, take_photos
from deployments.http.open_inference import INFER, MODEL
from deployments.http.photo_route import CLASSIFY, Telemetry
from deployments.messages import Trace
from deployments.pipeline.dispatcher import Dispatched
from deployments.settings import EndpointSettings, RequestLogSettings, Settings, parse
from deployments.telemetry.catalogue import KEY_PHOTOS, PHOTOS_ANSWERED, PROBLEMS
from deployments.telemetry.request_log import RequestLog
from mlc_core.errors import KeysError
from mlc_core.keys import Key, add_key, hash_of, revoke_key

LATER = datetime.now(UTC) + timedelta(days=1)
ORIGIN = "https://shop.example"


async def one_ingress():
    return 1


class Lines(logging.Handler):
    """What the request log writes."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines += [json.loads(line) for line in record.getMessage().splitlines()]


class Pipeline:
    """Answers every photo, unless it refuses."""

    refused = None

    def refusal(self, _size_bytes):
        return self.refused

    def expected_wait_s(self, _size_bytes):
        return 3.0

    def __init__(self):
        self.profiles = []

    def submit(self, _data, choice, _request_id):
        self.profiles.append(choice.profile)
        future = asyncio.get_running_loop().create_future()
        trace = Trace({}, 1, "fashion/1")
        future.set_result(Dispatched(b'{"labels":{}}', "small_photos_queue", 0.0, trace))
        return future

    async def wait(self, submitted):
        return await submitted

    async def wait_for_all(self, submitted):
        return await asyncio.gather(*submitted)


class Service:
    """The API; photos take the short cut, other requests come as through Serve."""

    def __init__(self, settings, file=None, rate=100.0, profile=""):
        self.pipeline, self.recorder, self.lines = Pipeline(), Recording(), Lines()
        self.file, self.access = file, None
        if file is not None:
            self.key = add_key(file, "shop", rate, LATER, profile=profile)
            settings = settings.model_copy(update={"keys_file": str(file)})
            self.access = Access(file, one_ingress)
        self.log = RequestLog(RequestLogSettings(), self.lines, self.recorder)
        self.api = build_api(
            self.pipeline, self._describe, lambda: None, settings,
            Telemetry(self.recorder, self.log), Disconnects(), self.access,
        )  # fmt: skip

    async def _describe(self):
        return {"name": "fashion", "heads": {"color": ["Red", "Blue"]}}

    async def __aenter__(self):
        take_photos(self.api.photo_route, asyncio.get_running_loop())
        app = self.api
        for each in middlewares():
            app = each.cls(app)
        self.app = app
        transport = httpx.ASGITransport(app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://service")
        return self

    async def __aexit__(self, *_):
        await self.client.aclose()
        middleware._ingresses.clear()

    async def ask(self, path, key=None, **request):
        headers = {
            **request.pop("headers", {}),
            **({"Authorization": f"Bearer {key}"} if key else {}),
        }
        if path.partition("?")[0] == CLASSIFY:
            return await self.client.post(path, content=b"photo", headers=headers, **request)
        if path.partition("?")[0] == BATCH:
            photos = [("images", b"photo")] * request.pop("photos", 1)
            return await self.client.post(path, files=photos, headers=headers, **request)
        return await self.client.get(path, headers=headers, **request)


@asynccontextmanager
async def on_a_port(app):
    """uvicorn; yields its address."""
    config = uvicorn.Config(app, port=0, lifespan="off", log_level="critical", http="httptools")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        await running


async def head_alone(address, path, head=""):
    """Status and headers of the answer to a request whose body never comes."""
    reader, writer = await asyncio.open_connection(*address)
    text = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n{head}\r\n"
    writer.write(text.encode())
    try:
        async with asyncio.timeout(10):
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
    finally:
        writer.close()
    return int(first.split()[1]), {n.lower(): v for n, v in (li.split(": ", 1) for li in lines)}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


@pytest.fixture
async def service(file):
    async with Service(Settings(), file) as service:
        yield service


@pytest.fixture
async def other_origins(file):
    async with Service(Settings(cors_origins=[ORIGIN]), file) as service:
        yield service


def problem(response, status, name):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == f"urn:problem-type:mlc:{name}"
    return response.json()


API = [CLASSIFY, BATCH, "/v1/model"]


@pytest.mark.parametrize("path", [*API, "/metrics"])
@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ([], "send a key"),
        ([("Authorization", "Bearer wrong")], "does not know this key"),
        ([("Authorization", "Basic c2hvcA==")], "send one key"),
        ([("Authorization", "Bearer")], "does not know this key"),
        ([("Authorization", "Bearer a"), ("Authorization", "Bearer b")], "send one key"),
        ([("Authorization", b"Bearer \xff\xfe")], "does not know this key"),
    ],
    ids=["none", "wrong", "another scheme", "empty", "two", "no text"],
)
async def test_without_a_valid_key_there_is_a_401(service, path, headers, detail):
    if path == CLASSIFY:
        response = await service.client.post(path, content=b"photo", headers=headers)
    elif path == BATCH:
        response = await service.client.post(path, files={"images": b"x"}, headers=headers)
    else:
        response = await service.client.get(path, headers=headers)
    assert detail in problem(response, 401, "key-refused")["detail"]
    assert response.headers["www-authenticate"] == 'Bearer realm="mlc"'
    assert {each["problem"] for each in service.recorder.labels(PROBLEMS)} == {"key-refused"}
    assert service.recorder.labels(KEY_PHOTOS) == []


@pytest.mark.parametrize("path", API)
async def test_a_valid_key_is_answered(service, path):
    assert (await service.ask(path, service.key)).status_code == 200
    assert (await service.ask(path, headers={"authorization": f"bearer {service.key}"})).is_success


@pytest.mark.parametrize("path", API)
async def test_without_a_file_of_keys_nobody_needs_one(path):
    async with Service(Settings()) as service:
        assert (await service.ask(path)).status_code == 200
        assert (await service.ask(path, "any")).status_code == 200


async def test_a_path_that_is_written_in_another_way_needs_a_key_too(service):
    for path in (f"{CLASSIFY}/", f"{CLASSIFY}//", "/v1%2Fclassify", f"{BATCH}/", "/v1/model/"):
        method = "GET" if "model" in path else "POST"
        response = await service.client.request(method, path, content=None)
        assert response.status_code in (401, 404), path
    assert service.recorder.values(PHOTOS_ANSWERED, status="200") == []


@pytest.mark.parametrize("path", [CLASSIFY, BATCH])
async def test_a_401_and_a_429_do_not_wait_for_the_body(service, path):
    async with on_a_port(service.app) as address:
        status, headers = await head_alone(address, path)
        assert status == 401
        assert headers["www-authenticate"]
        for client in service.access._clients.values():
            client.take(10_000)
        authorization = f"Authorization: Bearer {service.key}\r\n"
        status, headers = await head_alone(address, path, authorization)
        assert status == 429
        assert int(headers["retry-after"]) > 50


async def test_an_expired_key_is_refused(service, file):
    key = add_key(file, "old", 5, datetime.now(UTC) - timedelta(seconds=1))
    await service.access.read_if_changed()
    details = problem(await service.ask(CLASSIFY, key), 401, "key-refused")
    assert "has expired" in details["detail"]


async def test_keys_are_added_and_revoked_without_a_restart(service, file):
    second = add_key(file, "shop-2", 5, LATER)
    assert (await service.ask(CLASSIFY, second)).status_code == 401
    await service.access.read_if_changed()
    for key in (service.key, second):  # both, so that a client can change over
        assert (await service.ask(CLASSIFY, key)).status_code == 200
    revoke_key(file, "shop")
    await service.access.read_if_changed()
    assert (await service.ask(CLASSIFY, service.key)).status_code == 401
    assert (await service.ask(CLASSIFY, second)).status_code == 200


@pytest.mark.parametrize("broken", ["", '{"keys": [1]}', None])
async def test_a_file_that_breaks_leaves_the_keys_in_force_and_is_logged_once(
    service, file, broken, caplog
):
    if broken is None:
        file.unlink()
    else:
        file.write_text(broken)
    for _ in range(2):
        await service.access.read_if_changed()
        assert (await service.ask(CLASSIFY, service.key)).status_code == 200
    (line,) = [r.getMessage() for r in caplog.records if "stay in force" in r.getMessage()]
    assert "keys.json" in line
    file.unlink(missing_ok=True)
    new = add_key(file, "new", 5, LATER)
    await service.access.read_if_changed()
    assert (await service.ask(CLASSIFY, new)).status_code == 200
    assert (await service.ask(CLASSIFY, service.key)).status_code == 401


def test_an_ingress_does_not_start_without_the_file_it_was_told_of(file):
    with pytest.raises(KeysError, match="can't be read"):
        Access(file, one_ingress)


async def test_over_its_rate_a_client_gets_429_and_the_others_get_labels(file):
    async with Service(Settings(), file, rate=2) as service:
        other = add_key(file, "other", 100, LATER)
        await service.access.read_if_changed()
        answers = [await service.ask(CLASSIFY, service.key) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
        details = problem(answers[-1], 429, "rate-exceeded")
        assert answers[-1].headers["retry-after"] == "1"
        assert "try again in" in details["detail"]
        problem(await service.ask(BATCH, service.key), 429, "rate-exceeded")
        assert (await service.ask("/v1/model", service.key)).status_code == 200  # no photo
        assert (await service.ask(CLASSIFY, other)).status_code == 200


async def test_a_batch_counts_its_photos(file):
    async with Service(Settings(), file, rate=2) as service:
        assert (await service.ask(BATCH, service.key, photos=30)).status_code == 200
        response = await service.ask(CLASSIFY, service.key)
        assert int(response.headers["retry-after"]) == pytest.approx(30 / 2, abs=1)


async def test_photos_are_counted_and_logged_by_the_name_of_the_key(file):
    async with Service(Settings(), file, rate=2) as service:
        await service.ask(CLASSIFY, service.key)
        await service.ask(BATCH, service.key, photos=5)
        await service.ask(CLASSIFY, service.key)
        await service.ask(CLASSIFY)
        counted = [each["status"] for each in service.recorder.labels(KEY_PHOTOS)]
        assert counted == ["200"] * 6 + ["429"]
        assert {each["key"] for each in service.recorder.labels(KEY_PHOTOS)} == {"shop"}
        await service.log.flush()
        logged = [(line["status"], line.get("key")) for line in service.lines.lines]
        assert logged == [(200, "shop"), (200, "shop"), (429, "shop"), (401, None)]
        assert service.key not in json.dumps(service.lines.lines)


async def test_a_key_brings_its_profile_unless_the_request_names_another(file):
    async with Service(Settings(), file, profile="google") as service:
        for path in (CLASSIFY, BATCH):
            for query in ("", "?top_k=2", "?profile=german", "?profile="):
                assert (await service.ask(path + query, service.key)).status_code == 200
        assert service.pipeline.profiles == ["google", "google", "german", ""] * 2


async def test_a_photo_refused_for_overload_costs_a_client_nothing(file):
    async with Service(Settings(), file, rate=0.4) as service:
        service.pipeline.refused = Overloaded("full")
        for _ in range(5):
            assert (await service.ask(CLASSIFY, service.key)).status_code == 503
        service.pipeline.refused = None
        assert (await service.ask(CLASSIFY, service.key)).status_code == 200


@pytest.mark.parametrize(
    ("endpoint", "paths"),
    [("page", ["/"]), ("contract", ["/openapi.json"]), ("health", ["/healthz", "/readyz"])],
)
async def test_other_endpoints_have_switches_of_their_own(file, endpoint, paths):
    for openness, without, with_key in (
        ("open", 200, 200),
        ("key", 401, 200),
        ("closed", 404, 404),
    ):
        settings = Settings(endpoints=EndpointSettings(**{endpoint: openness}))
        file.unlink(missing_ok=True)
        async with Service(settings, file) as service:
            for path in paths:
                assert (await service.ask(path)).status_code == without
                assert (await service.ask(path, service.key)).status_code == with_key
            if endpoint != "contract":
                contract = (await service.ask("/openapi.json")).json()
                assert (paths[0] in contract["paths"]) == (openness != "closed")


async def test_the_contract_names_what_keys_add(service):
    contract = (await service.ask("/openapi.json")).json()
    validate(contract)
    assert contract["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, method in ((CLASSIFY, "post"), (BATCH, "post"), ("/v1/model", "get")):
        operation = contract["paths"][path][method]
        assert operation["security"] == [{"key": []}]
        assert "WWW-Authenticate" in operation["responses"]["401"]["headers"]
        assert ("429" in operation["responses"]) == (method == "post")
    assert "security" not in contract["paths"]["/healthz"]["get"]


@pytest.mark.parametrize(("path", "method"), [(CLASSIFY, "post"), (INFER, "post"), (MODEL, "get")])
async def test_the_contract_foresees_what_a_refused_client_gets(service, path, method):
    response = await service.client.request(method, path.format(model="fashion"))
    assert response.status_code == 401
    contract = (await service.ask("/openapi.json")).json()
    responses = contract["paths"][path][method]["responses"]
    ((media_type, described),) = responses["401"]["content"].items()
    schema = contract["components"]["schemas"][described["schema"]["$ref"].rpartition("/")[2]]
    assert response.headers["content-type"] == media_type
    assert set(response.json()) >= set(schema["required"])
    if method == "post":
        assert list(responses["429"]["content"]) == [media_type]


async def test_without_keys_the_contract_names_none():
    async with Service(Settings()) as service:
        text = (await service.ask("/openapi.json")).text
    assert "securitySchemes" not in text
    assert '"401"' not in text


# --- the rate over all ingress replicas -------------------------------------------------------


class Replicas:
    """Ingress replicas with a client each, on a clock that a test moves."""

    def __init__(self, monkeypatch, rate, ingresses):
        self.now_s, self._key = 0.0, Key("shop", bytes(32), rate, LATER)
        clock = SimpleNamespace(monotonic=lambda: self.now_s, time=lambda: 0.0)
        monkeypatch.setattr(access, "time", clock)
        self.clients = [Client(self._key, ingresses) for _ in range(ingresses)]

    def send(self, to, photos=1):
        """Whether a replica takes photos."""
        if self.clients[to].wait_s():
            return 0
        self.clients[to].take(photos)
        return photos

    def run(self, for_s, offered_per_s, choose, photos=1):
        """Photos that are taken in so many seconds."""
        taken, requests = 0, round(for_s * offered_per_s / photos)
        for n in range(requests):
            self.now_s += for_s / requests
            taken += self.send(choose(n), photos)
        return taken

    def scale(self, ingresses):
        """Replicas come or go, and all know it."""
        self.clients = self.clients[:ingresses]
        for client in self.clients:
            client.update(self._key, ingresses)
        self.clients += [Client(self._key, ingresses) for _ in range(ingresses - len(self.clients))]


@pytest.mark.parametrize("ingresses", [1, 2, 4, 8])
@pytest.mark.parametrize("share", [5, 50])
@pytest.mark.parametrize("offered", [0.9, 1.0, 1.1, 3.0])
@pytest.mark.parametrize("seconds", [10, 60])
def test_a_rate_holds_over_all_ingresses_within_20_percent(
    monkeypatch, ingresses, share, offered, seconds
):
    """Each request goes to a replica at random, which is less even than what HAProxy does."""
    draw, rate = random.Random(7), share * ingresses
    replicas = Replicas(monkeypatch, rate, ingresses)
    taken = replicas.run(seconds, offered * rate, lambda _: draw.randrange(ingresses)) / seconds
    assert 0.8 * min(1, offered) * rate <= taken <= 1.2 * rate
    if offered == 0.9:
        assert taken >= 0.9 * offered * rate  # a client below its rate loses little


@pytest.mark.parametrize("ingresses", [2, 4])
def test_a_rate_of_batches_of_32_holds_within_20_percent(monkeypatch, ingresses):
    draw = random.Random(7)
    replicas = Replicas(monkeypatch, 100, ingresses)
    taken = replicas.run(60, 200, lambda _: draw.randrange(ingresses), photos=32) / 60
    assert 80 <= taken <= 120


def test_a_rate_holds_when_two_ingresses_share_the_load_60_to_40(monkeypatch):
    draw = random.Random(7)
    replicas = Replicas(monkeypatch, 50, 2)
    taken = replicas.run(60, 50, lambda _: draw.random() < 0.4) / 60
    assert 40 <= taken <= 60


def test_a_rate_holds_over_a_minute_in_which_ingresses_come_and_go(monkeypatch):
    draw = random.Random(7)
    replicas = Replicas(monkeypatch, 50, 2)
    taken = 0
    for ingresses in (2, 4, 8, 3, 1, 2):
        replicas.scale(ingresses)
        taken += replicas.run(10, 150, lambda _, n=ingresses: draw.randrange(n))
    assert 0.8 * 50 <= taken / 60 <= 1.2 * 50


async def test_a_clients_share_follows_the_number_of_ingresses(file):
    add_key(file, "shop", 90, LATER)
    counts = iter([3, 1])

    async def count():
        return next(counts)

    access = Access(file, count)
    (client,) = access._clients.values()
    client.take(1000)
    await access.count()
    assert client.wait_s() == pytest.approx((1000 - 90) / 30, rel=0.05)
    await access.count()
    assert client.wait_s() == pytest.approx((1000 - 90) / 90, rel=0.05)


async def test_a_changed_file_keeps_what_a_client_has_used_up(file):
    add_key(file, "shop", 10, LATER)
    access = Access(file, one_ingress)
    (client,) = access._clients.values()
    client.take(1000)
    add_key(file, "other", 10, LATER)
    await access.read_if_changed()
    assert [c.wait_s() > 0 for c in access._clients.values()] == [True, False]


async def test_a_failed_count_ends_neither_counting_nor_reading(file, monkeypatch, caplog):
    add_key(file, "shop", 10, LATER)
    asked = asyncio.Event()
    calls = []

    async def count():
        calls.append(None)
        if len(calls) == 1:
            raise RuntimeError("no controller")
        asked.set()
        return 2

    monkeypatch.setattr(access, "_READ_EVERY_S", 0)
    monkeypatch.setattr(access, "_COUNT_EVERY_S", 0)
    watching = asyncio.create_task(Access(file, count).watch())
    async with asyncio.timeout(10):
        await asked.wait()
    watching.cancel()
    assert "can't be brought up to date" in caplog.text


def test_a_key_is_compared_by_its_whole_hash(file):
    key = add_key(file, "shop", 10, LATER)
    access = Access(file, one_ingress)
    (prefix,) = access._clients
    sha256 = hash_of(key.encode())
    assert sha256.startswith(prefix)
    access._clients[prefix].sha256 = sha256[:-1] + bytes([sha256[-1] ^ 1])
    scope = {"headers": [(b"authorization", b"Bearer " + key.encode())]}
    assert "does not know" in str(access.refusal(scope, photos=True))


# --- other origins ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*API, "/nowhere"])
async def test_a_preflight_of_a_listed_origin_is_answered_without_a_key(other_origins, path):
    headers = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "GET" if path == "/v1/model" else "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    response = await other_origins.client.options(path, headers=headers)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in response.headers["access-control-allow-headers"].lower()
    other = await other_origins.client.options(
        path, headers=headers | {"Origin": "https://b.example"}
    )
    assert other.status_code == 400
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("path", [*API, "/nowhere"])
async def test_answers_and_errors_can_be_read_by_a_listed_origin_alone(other_origins, path):
    for key in (other_origins.key, None):
        for origin, allowed in (
            (ORIGIN, ORIGIN),
            ("https://shop.example.evil", None),
            (None, None),
        ):
            headers = {"Origin": origin} if origin else {}
            response = await other_origins.ask(path, key, headers=headers)
            assert response.headers.get("access-control-allow-origin") == allowed
            assert response.headers["vary"] == "Origin"
            assert (
                "retry-after" in response.headers.get("access-control-expose-headers", "").lower()
            ) == (origin is not None)


async def test_a_refusal_for_overload_can_be_read_by_a_listed_origin(other_origins):
    other_origins.pipeline.refused = Overloaded("full")
    response = await other_origins.ask(CLASSIFY, other_origins.key, headers={"Origin": ORIGIN})
    assert response.status_code == 503
    assert response.headers["access-control-allow-origin"] == ORIGIN


async def test_a_star_allows_every_origin():
    async with Service(Settings(cors_origins=["*"])) as service:
        for path in API:
            response = await service.ask(path, headers={"Origin": ORIGIN})
            assert response.headers["access-control-allow-origin"] == "*"


async def test_by_default_no_other_origin_is_allowed(service):
    for path in API:
        response = await service.ask(path, service.key, headers={"Origin": ORIGIN})
        assert "access-control-allow-origin" not in response.headers
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    assert (await service.client.options(CLASSIFY, headers=headers)).status_code == 401


@pytest.mark.parametrize(
    "origin", ["shop.example", "https://shop.example/", "https://Shop.example", "https://*.a.b", ""]
)
def test_what_no_browser_sends_as_an_origin_is_a_wrong_setting(origin):
    with pytest.raises(ValueError, match=r"cors_origins\.0"):
        parse(Settings, {"cors_origins": [origin]})
