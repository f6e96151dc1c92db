"""What is written of requests by the service as users start it."""

import json
import re

import pytest
from photos import jpeg
from services import wait_until


@pytest.fixture
def lines(service):
    """Reads the lines of a request id, of all ingress replicas; waits for `count` of them."""

    def read(request_id, count=1):
        def found():
            texts = [file.read_text() for file in service.logs.glob("requests_*_Ingress_*.log")]
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
    assert line["batch_size"] >= 1
    assert set(line["stages_s"]) == {
        "read", "small_photos_queue", "decode", "images_queue", "inference", "encode",
    }  # fmt: skip
    assert sum(line["stages_s"].values()) <= line["duration_s"] + 0.001
    assert max(map(len, re.findall(r"\w+", json.dumps(line)))) < 40  # nothing like a photo


def test_an_id_of_the_clients_own_is_followed(client, lines):
    own = {"X-Request-ID": "shop-42/listing"}
    client.post("/v1/classify", content=jpeg()[:200], headers=own)
    files = [("images", jpeg()), ("images", b"no photo")]
    client.post("/v1/classify/batch", files=files, headers=own)
    one, batch = lines("shop-42/listing", 2)
    assert (one["level"], one["status"], one["problem"]) == ("warning", 422, "undecodable-photo")
    assert (one["stages_s"].keys(), one["batch_size"], one["model"]) == (
        {"read", "small_photos_queue", "decode"}, 0, "",
    )  # fmt: skip
    assert (batch["route"], batch["status"], batch["photos"]) == ("/v1/classify/batch", 200, 2)
    assert batch["model"] == "fashion/2"
