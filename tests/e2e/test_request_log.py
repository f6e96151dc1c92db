"""What is written of requests by the service as users start it."""

import json
import re
from pathlib import Path

import httpx
import pytest
from photos import jpeg
from services import wait_until

from launcher.service import run_directory


@pytest.fixture
def lines(service):
    """Reads the lines of a request id, of all ingress replicas; waits for `count` of them."""
    folder = Path(run_directory(service.port)) / "session_latest/logs/serve"

    def read(request_id, count=1):
        def found():
            texts = [file.read_text() for file in folder.glob("requests_*_Ingress_*.log")]
            every = [json.loads(line) for text in texts for line in text.splitlines()]
            return [line for line in every if line["request_id"] == request_id]

        wait_until(lambda: len(found()) >= count, f"{count} lines of {request_id}", 10)
        return found()

    return read


def test_each_request_has_one_line_under_the_id_of_its_answer(client, lines):
    photo = jpeg()
    response = client.post("/v1/classify", content=photo)
    (line,) = lines(response.headers["x-request-id"])
    assert (line["route"], line["status"], line["photos"]) == ("/v1/classify", 200, 1)
    model = response.json()["model"]
    assert line["model"] == f"{model['name']}/{model['version']}"
    assert line["batch"] >= 1
    assert set(line["stages_s"]) == {
        "read", "small_photos_queue", "decode", "images_queue", "inference", "encode",
    }  # fmt: skip
    assert sum(line["stages_s"].values()) <= line["took_s"] + 0.001
    assert max(map(len, re.findall(r"\w+", json.dumps(line)))) < 40  # nothing like a photo


def test_an_id_of_the_clients_own_is_followed(client, lines):
    own = {"X-Request-ID": "shop-42/listing"}
    client.post("/v1/classify", content=jpeg()[:200], headers=own)
    files = [("images", jpeg()), ("images", b"no photo")]
    client.post("/v1/classify/batch", files=files, headers=own)
    one, batch = lines("shop-42/listing", 2)
    assert (one["level"], one["status"], one["problem"]) == ("warning", 422, "undecodable-photo")
    assert (one["stages_s"].keys(), one["batch"], one["model"]) == (
        {"read", "small_photos_queue", "decode"}, 0, "",
    )  # fmt: skip
    assert (batch["route"], batch["status"], batch["photos"]) == ("/v1/classify/batch", 200, 2)
    assert batch["model"] == "fashion/1"


def test_a_client_that_leaves_its_batch_has_a_line_too(url, lines):
    files = [("images", jpeg(size_px=(3000, 4000)))] * 12
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{url}/v1/classify/batch", files=files, trust_env=False,
            headers={"X-Request-ID": "impatient"}, timeout=httpx.Timeout(30, read=0.05),
        )  # fmt: skip
    (line,) = lines("impatient")
    assert (line["status"], line["problem"]) == (499, "client-left")
