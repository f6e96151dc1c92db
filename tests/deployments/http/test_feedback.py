"""Claims about `POST /v1/feedback`: a real directory, a played way to the classifier."""

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from played import PlayedPipeline
from recording import Recording

from deployments.http import recent_photos
from deployments.http.access import Access
from deployments.http.api import build_api
from deployments.http.disconnects import Disconnects
from deployments.http.feedback import FeedbackRoute
from deployments.http.photo_route import Telemetry
from deployments.http.recent_photos import RecentPhotos
from deployments.messages import Trace
from deployments.pipeline.dispatcher import Dispatched
from deployments.settings import FeedbackSettings, Limits, RequestLogSettings, Settings
from deployments.telemetry.catalogue import FEEDBACK_LABELS
from deployments.telemetry.request_log import RequestLog
from mlc_core.errors import UndecodablePhoto
from mlc_core.feedback import read_feedback
from mlc_core.keys import add_key

FEEDBACK = "/v1/feedback"
PHOTO, BROKEN = b"a photo", b"broken"
SAID = {"labels": {"color": "Blue", "category": "Tops"}, "by": "anna"}


class Pipeline(PlayedPipeline):
    """Answers that every photo is a red top."""

    def submit(self, data, _choice, _request_id):
        future = asyncio.get_running_loop().create_future()
        labels = {
            head: {"label": label, "confidence": 0.9, "alternatives": []}
            for head, label in (("color", "Red"), ("category", "Tops"))
        }
        answer = {"model": {"name": "fashion", "version": "2"}, "labels": labels}
        result = UndecodablePhoto("no photo") if data == BROKEN else json.dumps(answer).encode()
        future.set_result(Dispatched(result, "small_photos_queue", 0.0, Trace({}, 1, "fashion/2")))
        return future


class Service:
    def __init__(self, directory, keys=None, writes=True):
        self.directory = directory
        settings = Settings(
            limits=Limits(max_photo_bytes=1000),
            feedback=FeedbackSettings(directory=str(directory), recent_bytes=1000),
        )
        self.recorder = Recording()
        log = RequestLog(RequestLogSettings(), logging.NullHandler(), self.recorder)
        headers, access = {}, None
        if keys:
            later = datetime.now(UTC) + timedelta(days=1)
            key = add_key(keys, "editors", 10_000, later, writes=writes)
            access, headers = Access(keys, self._one), {"Authorization": f"Bearer {key}"}
        feedback = FeedbackRoute(
            directory, "ingress", Pipeline(), self._describe, settings, self.recorder
        )
        app = build_api(
            Pipeline(), self._describe, lambda: None, settings, Telemetry(self.recorder, log),
            Disconnects(), access, None, feedback,
        )  # fmt: skip
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(
            transport=transport, base_url="http://service", headers=headers
        )

    async def _one(self):
        return 1

    async def _describe(self):
        return {
            "name": "fashion",
            "heads": {"color": ["Red", "Blue"], "category": ["Tops", "Shirts"]},
        }

    async def form(self, said=SAID, photo=PHOTO, **more):
        files = {"image": ("photo.jpg", photo), "feedback": (None, json.dumps(said)), **more}
        return await self.client.post(FEEDBACK, files=files)


@pytest.fixture
async def service(tmp_path):
    service = Service(tmp_path / "feedback", tmp_path / "keys.json")
    async with service.client:
        yield service


async def test_a_photo_and_its_right_labels_are_on_the_disk_when_it_answers(service):
    response = await service.form()
    assert response.status_code == 201
    assert response.json()["answered"] == {"color": "Red", "category": "Tops"}
    assert response.json()["corrected"] == ["color"]
    (stored,) = read_feedback(service.directory)
    assert (stored.by, stored.key, stored.labels) == ("anna", "editors", SAID["labels"])
    assert stored.model == "fashion/2"
    (photo,) = service.directory.glob("*/photos/*")
    assert (photo.name, photo.read_bytes()) == (response.json()["photo"], PHOTO)
    judged = service.recorder.labels(FEEDBACK_LABELS)
    assert judged == [
        {"head": "color", "outcome": "corrected"},
        {"head": "category", "outcome": "confirmed"},
    ]


async def test_a_request_that_was_just_answered_needs_no_photo(service):
    asked = await service.client.post(
        "/v1/classify", content=PHOTO, headers={"X-Request-ID": "form-7"}
    )
    assert asked.status_code == 200
    response = await service.client.post(FEEDBACK, json=SAID | {"request_id": "form-7"})
    assert response.status_code == 201, response.text
    (stored,) = read_feedback(service.directory)
    assert stored.request_id == "form-7"
    unknown = await service.client.post(FEEDBACK, json=SAID | {"request_id": "form-8"})
    assert unknown.status_code == 404
    assert "send the photo in a form" in unknown.json()["detail"]


@pytest.mark.parametrize(
    ("said", "detail"),
    [
        (SAID | {"labels": {"colour": "Red"}}, "there is no head 'colour'; there are color"),
        (SAID | {"labels": {"color": "Bleu"}}, "no class 'Bleu', in the model's own words; did"),
        (SAID | {"labels": {}}, "length >= 1"),
        ({"labels": {"color": "Red"}}, "missing required field `by`"),
        (SAID | {"why": "so"}, "unknown field `why`"),
        ("Red", "Expected `object`"),
    ],
)
async def test_feedback_that_is_wrong_says_what_is(service, said, detail):
    response = await service.form(said)
    assert response.status_code == 400
    assert detail in response.json()["detail"]
    assert not service.directory.exists()


async def test_a_request_that_is_no_feedback_says_what_to_send(service):
    for status, part, sent in (
        (400, "name the request_id", {"json": SAID}),
        (415, "application/json with a request_id", {"content": PHOTO}),
        (400, "send image and feedback", {"files": {"image": PHOTO, "photo": PHOTO}}),
        (400, "JSON in 'feedback'", {"files": {"image": PHOTO}}),
        (413, "more than 1000 bytes", {"files": {"image": b"x" * 1001, "feedback": b"{}"}}),
    ):
        response = await service.client.post(FEEDBACK, **sent)
        assert response.status_code == status, response.text
        assert part in response.json()["detail"]


async def test_a_photo_that_cant_be_decoded_is_not_stored(service):
    assert (await service.form(photo=BROKEN)).status_code == 422
    assert not service.directory.exists()


async def test_a_disk_that_takes_no_feedback_is_said_and_may_be_tried_again(service):
    service.directory.write_text("a file where the directory should be")
    response = await service.form()
    assert response.status_code == 503
    assert response.json()["type"].endswith("feedback-unwritable")
    assert response.headers["retry-after"]


async def test_only_a_key_that_may_write_gives_feedback(tmp_path):
    for keys in (None, tmp_path / "keys.json"):
        service = Service(tmp_path / "feedback", keys, writes=False)
        async with service.client:
            assert (await service.form()).status_code == 403
    assert not (tmp_path / "feedback").exists()


def test_recent_photos_are_bounded_by_bytes_and_by_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(recent_photos.time, "monotonic", lambda: now[0])
    recent = RecentPhotos(10_000)
    for name in ("a", "b", "c"):
        recent.remember(name, name.encode() * 3000)
    assert [bool(recent.get(name)) for name in ("a", "b", "c")] == [False, True, True]
    recent.remember("huge", b"1" * 10_001)
    assert recent.get("huge") is None
    for n in range(100):  # small ones take room too
        recent.remember(f"small {n}", b"x")
    assert sum(recent.get(f"small {n}") is not None for n in range(100)) < 30
    now[0] += recent_photos.REMEMBERED_S
    assert recent.get("small 99") is None
    recent.forget_old()
    assert not recent._photos
    assert recent._bytes == 0


def test_a_request_id_that_two_photos_have_names_neither():
    recent = RecentPhotos(10_000)
    recent.remember("form-7", b"a dress")
    recent.remember("form-7", b"a dress")
    assert recent.get("form-7") == b"a dress"
    recent.remember("form-7", b"another client's shoe")
    recent.remember("form-7", b"a dress")
    assert recent.get("form-7") is None


async def test_feedback_in_a_form_is_as_short_as_any(service):
    for said in (SAID | {"by": "a" * 200, "labels": {"color": "x" * 2**14}},
                 SAID | {"request_id": "r" * 129}):  # fmt: skip
        files = {"image": PHOTO, "feedback": (None, json.dumps(said))}
        response = await service.client.post(FEEDBACK, files=files)
        assert response.status_code in (400, 413)
    assert not service.directory.exists()
