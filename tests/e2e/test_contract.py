"""The HTTP contract, over real HTTP."""

import http.client
import json
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from contract import BATCH, CLASSIFY, assert_problem, same_labels
from openapi_spec_validator import validate
from photos import FORMATS, SIZE_PX, TRUNCATED, forged_png, garment, jpeg, slow_photo
from PIL import Image
from raw_client import RawClient
from services import tool

from mlc_core.labels import Choice
from mlc_core.spec import HEADS
from samples.garments import as_file


def test_a_photo_is_taken_however_it_is_sent(client, answer_here):
    photo = jpeg(3)
    expected = answer_here(photo)
    for request in (
        {"content": photo, "headers": {"Content-Type": "image/jpeg"}},
        {"content": photo, "headers": {"Content-Type": "image/png"}},  # the bytes decide
        {"content": photo, "headers": {"Content-Type": "application/octet-stream"}},
        {"content": photo, "headers": {"Content-Type": "text/plain"}},
        {"content": photo},
        {"content": iter([photo[:500], photo[500:]])},  # chunked, of no declared length
        {"files": {"image": ("photo.jpg", photo, "image/jpeg")}},
        {"files": {"image": ("photo", photo)}},
    ):
        response = client.post(CLASSIFY, **request)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json"
        assert same_labels(response.json(), expected)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gets_four_labels(client, answer_here, name):
    response = client.post(CLASSIFY, content=FORMATS[name])
    assert response.status_code == 200, response.text
    body = response.json()
    assert list(body["labels"]) == list(HEADS)
    assert body["model"] == {"name": "fashion", "version": "2"}
    for label in body["labels"].values():
        assert set(label) == {"label", "confidence", "alternatives"}
        assert label["label"]
        assert 0 < label["confidence"] <= 1
        assert label["alternatives"] == []
    assert same_labels(body, answer_here(FORMATS[name]))


@pytest.mark.parametrize("top_k", [1, 3, 20])
def test_top_k_names_that_many_classes_of_each_head(client, answer_here, top_k):
    query = {"top_k": top_k, "consistent": "false"}
    body = client.post(CLASSIFY, params=query, content=jpeg()).json()
    classes = client.get("/v1/model").json()["heads"]
    for head, label in body["labels"].items():
        assert len(label["alternatives"]) == min(top_k, len(classes[head])) - 1
        ranked = [label["confidence"], *(a["confidence"] for a in label["alternatives"])]
        assert ranked == sorted(ranked, reverse=True)
        assert len({label["label"], *(a["label"] for a in label["alternatives"])}) == len(ranked)
    assert same_labels(body, answer_here(jpeg(), Choice(top_k, consistent=False)))


def test_a_head_below_min_confidence_answers_null(client):
    for limit, is_null in (("0", False), ("1", True)):
        body = client.post(CLASSIFY, params={"min_confidence": limit}, content=jpeg(4)).json()
        unsure = {h: v for h, v in body["labels"].items() if v["confidence"] < 1}
        assert unsure
        assert all((label["label"] is None) == is_null for label in unsure.values())


def test_a_head_that_lacks_the_precision_answers_null(client):
    thresholds = client.get("/v1/model").json()["thresholds"]
    photos = [jpeg(seed) for seed in range(16)]
    response = client.post(
        BATCH, params={"precision": "0.95"}, files=[("images", photo) for photo in photos]
    )
    named = 0
    for result in response.json()["results"]:
        for head, label in result["labels"].items():
            if label["label"] is not None:
                named += 1
                assert label["confidence"] >= thresholds[head]["0.95"] - 1e-4
    assert 0 < named < 4 * len(photos)


def test_labels_are_a_path_of_the_taxonomy(client):
    taxonomy = client.get("/v1/model").json()["taxonomy"]
    photos = [jpeg(seed) for seed in range(32)]
    response = client.post(BATCH, files=[("images", photo) for photo in photos])
    for result in response.json()["results"]:
        path = [result["labels"][head]["label"] for head in taxonomy["heads"]]
        assert path in taxonomy["paths"]


def test_a_batch_keeps_its_order(client, answer_here):
    photos = [jpeg(seed) for seed in range(32)]
    response = client.post(BATCH, files=[("images", ("p.jpg", photo)) for photo in photos])
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert len(results) == len(photos)
    assert all(same_labels(r, answer_here(p)) for r, p in zip(results, photos, strict=True))


def test_one_bad_photo_spoils_no_other(client, answer_here):
    bad = {1: (TRUNCATED, 422), 3: (b"no photo", 415), 5: (b"", 400), 6: (b"x" * 10485761, 413)}
    photos = [bad[n][0] if n in bad else jpeg(n) for n in range(8)]
    response = client.post(BATCH, files=[("images", ("p.jpg", photo)) for photo in photos])
    assert response.status_code == 200, response.text
    for n, result in enumerate(response.json()["results"]):
        if n in bad:
            assert result["status"] == bad[n][1]
            assert result["request_id"] == response.headers["x-request-id"]
        else:
            assert same_labels(result, answer_here(photos[n]))


def test_a_batch_of_bad_photos_only_is_answered_too(client):
    response = client.post(BATCH, files=[("images", ("p.jpg", photo)) for photo in (b"", b"")])
    assert [result["status"] for result in response.json()["results"]] == [400, 400]


def test_the_model_describes_itself(client):
    model = client.get("/v1/model").json()
    assert (model["name"], model["version"], model["engine"]) == ("fashion", "2", "onnxruntime")
    assert list(model["heads"]) == list(HEADS)
    assert set(model["image"]) == {"height_px", "width_px"}
    assert set(model["metrics"]["heads"]) == set(HEADS)


def test_it_is_alive_and_ready(client):
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_the_page_may_load_nothing_from_elsewhere(client):
    response = client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]


def test_the_contract_is_valid_openapi(client):
    contract = client.get("/openapi.json").json()
    validate(contract)
    assert {CLASSIFY, BATCH, "/v1/model", "/healthz", "/readyz"} <= set(contract["paths"])


def test_the_service_keeps_its_contract(url, tmp_path):
    """Requests made from the contract, right ones and wrong ones, get answers it foresees."""
    done = subprocess.run(
        [tool("schemathesis"), "--config-file", str(Path(__file__).with_name("schemathesis.toml")),
         "run", f"{url}/openapi.json"],
        capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


FORM = {"Content-Type": "multipart/form-data"}
REFUSED = {
    "top_k of zero": (400, "POST", f"{CLASSIFY}?top_k=0", {"content": jpeg()}),
    "top_k over the limit": (400, "POST", f"{CLASSIFY}?top_k=21", {"content": jpeg()}),
    "top_k no number": (400, "POST", f"{CLASSIFY}?top_k=two", {"content": jpeg()}),
    "min_confidence over one": (400, "POST", f"{CLASSIFY}?min_confidence=1.1", {"content": jpeg()}),
    "min_confidence nan": (400, "POST", f"{CLASSIFY}?min_confidence=nan", {"content": jpeg()}),
    "no body": (400, "POST", CLASSIFY, {}),
    "form without boundary": (400, "POST", CLASSIFY, {"content": b"x", "headers": FORM}),
    "form without the field": (400, "POST", CLASSIFY, {"files": {"photo": jpeg()}}),
    "text in the field": (400, "POST", CLASSIFY, {"files": {"image": (None, "text")}}),
    "two photos": (413, "POST", CLASSIFY, {"files": [("image", jpeg()), ("image", jpeg())]}),
    "batch without photos": (400, "POST", BATCH, {"files": {"photo": jpeg()}}),
    "unknown path": (404, "GET", "/v2/classify", {}),
    "wrong method": (405, "GET", CLASSIFY, {}),
    "method unheard of": (405, "DELETE", "/healthz", {}),
    "photo over the limit": (413, "POST", CLASSIFY, {"content": b"x" * 10485761}),
    "form over the limit": (413, "POST", CLASSIFY, {"files": {"image": b"x" * 10600000}}),
    "batch over the limit": (413, "POST", BATCH, {"files": [("images", jpeg())] * 33}),
    "batch not a form": (415, "POST", BATCH, {"content": jpeg()}),
    "bytes of no format": (415, "POST", CLASSIFY, {"content": b"a dress, navy blue"}),
    "truncated photo": (422, "POST", CLASSIFY, {"content": TRUNCATED}),
    "photo of too many pixels": (422, "POST", CLASSIFY, {"content": forged_png(9000, 9000)}),
    "bomb": (422, "POST", CLASSIFY, {"content": forged_png(60000, 60000)}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_refused_as_a_problem(client, case):
    status, method, path, request = REFUSED[case]
    assert_problem(client.request(method, path, **request), status)


def test_a_body_too_large_is_refused_without_a_declared_length(client):
    response = client.post(CLASSIFY, content=(b"x" * 2**16 for _ in range(161)))
    assert_problem(response, 413)


@pytest.mark.parametrize("path", [CLASSIFY, BATCH])
def test_a_413_is_readable_by_a_client_that_sends_everything_first(url, path):
    host, port = url.removeprefix("http://").split(":")
    size_bytes, piece = 80 * 2**20, b"x" * 2**20
    head = f"POST {path} HTTP/1.1\r\nHost: mlc\r\nContent-Length: {size_bytes}\r\n"
    for _ in range(3):
        with socket.create_connection((host, int(port)), timeout=30) as client:
            client.sendall(f"{head}Content-Type: multipart/form-data; boundary=B\r\n\r\n".encode())
            for _ in range(0, size_bytes, len(piece)):
                client.sendall(piece)
            response = http.client.HTTPResponse(client)
            response.begin()
            assert response.status == 413
            assert json.loads(response.read())["status"] == 413


def test_cookies_of_60_kb_are_no_obstacle(client):
    headers = {"Cookie": "; ".join(f"c{n}={'x' * 94}" for n in range(600))}
    for response in (client.get("/v1/model", headers=headers),
                     client.post(CLASSIFY, content=jpeg(), headers=headers)):  # fmt: skip
        assert response.status_code == 200, response.text


def test_a_slash_at_the_end_redirects_nobody(client):
    for path in (CLASSIFY, BATCH):
        files = {"image" if path == CLASSIFY else "images": jpeg()}
        headers = {"X-Forwarded-Proto": "https"}
        assert client.post(f"{path}/", files=files, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/v1/model", "/openapi.json", "/no"])
def test_every_answer_carries_one_request_id(client, path):
    (given,) = client.get(path).headers.get_list("x-request-id")
    assert given
    (own,) = client.get(path, headers={"X-Request-ID": "shop-7"}).headers.get_list("x-request-id")
    assert own == "shop-7"


@pytest.mark.parametrize(
    "ids",
    [["x" * 129], ["two words"], ["a,b"], ["<script>"], ["ä".encode()], ["a", "b"], [""]],
    ids=["long", "space", "comma", "markup", "not ascii", "twice", "empty"],
)
def test_a_request_id_unfit_for_a_log_is_replaced(client, ids):
    headers = [(b"X-Request-ID", i if isinstance(i, bytes) else i.encode()) for i in ids]
    for response in (
        client.post(CLASSIFY, content=jpeg(), headers=headers),
        client.post(CLASSIFY, content=b"no photo", headers=headers),
    ):
        (given,) = response.headers.get_list("x-request-id")
        assert given
        assert "," not in given
        assert given.encode() not in [value for _, value in headers]


@pytest.mark.parametrize(
    "headers",
    [{"X-Request-Timeout-Seconds": "0.000001"}, {"X-Request-Disconnect-Disabled": "?1"}],
    ids=lambda headers: next(iter(headers)),
)
def test_clients_do_not_steer_the_server(client, headers):
    assert client.post(CLASSIFY, content=jpeg(), headers=headers).status_code == 200
    assert client.get("/v1/model", headers=headers).status_code == 200


def test_64_clients_each_get_the_labels_of_their_own_photo(url, answer_here):
    photos = [jpeg(seed, (60, 80)) for seed in range(64)]
    expected = [answer_here(photo) for photo in photos]
    assert len({json.dumps(answer) for answer in expected}) == 64
    together = threading.Barrier(64)

    def ask(n: int) -> list[dict]:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            together.wait()
            return [client.post(CLASSIFY, content=photos[n]).json() for _ in range(3)]

    with ThreadPoolExecutor(64) as pool:
        for n, results in enumerate(pool.map(ask, range(64))):
            assert all(same_labels(result, expected[n]) for result in results)


def test_a_client_that_hangs_up_takes_nobody_of_its_group_with_it(url):
    slow, quick = slow_photo(), jpeg(1, (60, 80))
    assert len(slow) < 64 * 2**10  # small enough to ride with small ones
    # Two groups run at a time; these fill both, so that all that follows waits for the next.
    busy = [RawClient(url, slow) for _ in range(2)]
    opener = RawClient(url, slow)
    riders = [RawClient(url, quick) for _ in range(31)]
    busy[0].hang_up()  # the end of its group starts the next one, which must not end with it
    assert busy[1].status() == 200  # so the opener's group has set out
    opener.hang_up()
    assert [rider.status() for rider in riders] == [200] * 31


def test_clients_that_hang_up_at_any_moment_hurt_nobody(url):
    quick = jpeg(1, (60, 80))
    for _ in range(5):
        clients = [RawClient(url, quick) for _ in range(32)]
        for client in clients[::4]:
            client.hang_up()
        staying = [client for n, client in enumerate(clients) if n % 4]
        assert [client.status() for client in staying] == [200] * len(staying)


def test_a_large_photo_gets_the_labels_of_its_small_version(client):
    """One that goes by the lane of large photos; the noise makes it large as a file."""
    large = garment(7, (1200, 1600))
    noise = Image.effect_noise(large.size, 20).convert("RGB")
    photo = as_file(Image.blend(large, noise, 0.1), quality=95)
    assert len(photo) > 64 * 2**10
    assert client.post(CLASSIFY, content=photo).status_code == 200
    assert garment(7).size == SIZE_PX


def test_a_photo_may_be_as_large_as_the_limit(client, answer_here):
    """Messages between replicas are as large as photos may be."""
    photo = as_file(garment(7))
    padded = photo.ljust(10 * 2**20, b"\0")  # what follows the end of a JPEG is ignored
    response = client.post(CLASSIFY, content=padded)
    assert response.status_code == 200, response.text
    assert same_labels(response.json(), answer_here(photo))
    assert_problem(client.post(CLASSIFY, content=padded + b"\0"), 413)
