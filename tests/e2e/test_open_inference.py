"""The Open Inference Protocol of a running service, by unmodified clients of it from PyPI."""

import base64
import json
import re
import subprocess
import zlib

import httpx
import numpy as np
import pytest
from inference_environment import Clients, make_environment
from photos import TRUNCATED, jpeg
from services import PROJECT, environment, wait_until

from mlc_core.labels import Choice
from mlc_core.photo import decode
from mlc_core.spec import HEADS, Spec

MODEL = "fashion"
PLAIN = Choice(consistent=False)
CALL = f"/v2/models/{MODEL}/infer"


@pytest.fixture(scope="module")
def python():
    return make_environment()


@pytest.fixture
def call(python, url):
    return Clients(python, url)


@pytest.fixture(scope="module")
def spec(shipped_model):
    return Spec.from_json((shipped_model / "spec.json").read_text())


@pytest.fixture(scope="module")
def photos():
    return [jpeg(seed) for seed in range(100)]


@pytest.fixture
def expected(answer_here, spec):
    """Compares tensors with the labels that this process names."""

    def check(outputs, photos):
        for head in HEADS:
            assert outputs[head].dtype == np.float32
            assert outputs[head].shape == (len(photos), len(spec.heads[head]))
            np.testing.assert_allclose(outputs[head].sum(axis=1), 1, atol=1e-4)
            for row, photo in zip(outputs[head], photos, strict=True):
                label = answer_here(photo, PLAIN)["labels"][head]
                assert spec.heads[head][row.argmax()] == label["label"]
                assert abs(row.max() - label["confidence"]) < 1e-3

    return check


def test_the_program_of_the_page_works_as_printed(python, url):
    page = (PROJECT / "docs/open-inference.md").read_text(encoding="utf-8")
    program, _ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)  # and that by gRPC
    assert program.count("127.0.0.1:8000") == 1
    program = program.replace("127.0.0.1:8000", url.removeprefix("http://"))
    done = subprocess.run(
        [python, "-c", program], cwd=PROJECT, env=environment(), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert ":130:Tshirts" in done.stdout
    assert "(2, 46)" in done.stdout


def test_the_server_says_what_it_is_and_that_it_is_ready(call):
    assert "binary_tensor_data" in call("triton", "get_server_metadata")["extensions"]
    assert call("triton", "is_server_live") is True
    assert call("triton", "is_server_ready") is True
    assert call("triton", "is_model_ready", MODEL) is True
    assert call("triton", "is_model_ready", MODEL, "2") is True
    assert call("triton", "is_model_ready", MODEL, "1") is False
    assert call("triton", "is_model_ready", "other") is False


def test_the_model_describes_its_tensors(call, spec):
    for version in ("", "2"):
        metadata = call("triton", "get_model_metadata", MODEL, version)
        assert (metadata["name"], metadata["versions"]) == (MODEL, ["2"])
        assert {each["name"]: each["datatype"] for each in metadata["inputs"]} == {
            "photos": "BYTES",
            "images": "UINT8",
        }
        assert {each["name"]: each["shape"] for each in metadata["outputs"]} == {
            name: [-1, columns] for name, columns in spec.outputs.items()
        }
        config = call("triton", "get_model_config", MODEL, version)
        assert config["max_batch_size"] >= 100
        assert [each["name"] for each in config["output"]] == list(spec.outputs)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("count", [1, 100])
def test_photos_get_their_probabilities(call, expected, photos, binary, count):
    sent = photos[:count]
    outputs, response = call("triton", "infer", MODEL, sent, binary=binary, request_id="r7")
    assert (response["model_name"], response["model_version"]) == (MODEL, "2")
    assert response["id"] == "r7"
    assert list(outputs) == list(HEADS)
    expected(outputs, sent)


def test_outputs_come_as_they_are_asked_for(call, expected, answer_here, spec, photos):
    sent = photos[:7]
    wanted = [("category", 3, True), ("color", 2, False), ("embedding", 0, True)]
    outputs, response = call("triton", "infer", MODEL, sent, model_version="2", outputs=wanted)
    assert list(outputs) == ["category", "color", "embedding"]
    assert [each["datatype"] for each in response["outputs"]] == ["BYTES", "BYTES", "FP32"]
    for head, count in (("category", 3), ("color", 2)):
        assert outputs[head].shape == (7, count)
        for row, photo in zip(outputs[head], sent, strict=True):
            label = answer_here(photo, Choice(count, consistent=False))["labels"][head]
            ranked = [label, *label["alternatives"]]
            for text, each in zip(row, ranked, strict=True):
                named = text.decode() if isinstance(text, bytes) else text
                value, number, name = named.split(":", 2)
                assert name == each["label"] == spec.heads[head][int(number)]
                assert abs(float(value) - each["confidence"]) < 1e-3
    for row, photo in zip(outputs["embedding"], sent, strict=True):
        vector = answer_here(photo, Choice(embedding=True))["embedding"]["vector"]
        assert row @ vector > 0.999


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_images_of_the_models_size_are_inferred_as_they_are(call, expected, photos, spec, binary):
    sent = photos[:9]
    images = np.stack([decode(photo, spec.image) for photo in sent])
    outputs, _ = call("triton", "infer", MODEL, images, name="images", binary=binary)
    expected(outputs, sent)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("client", ["triton", "triton_aio"])
def test_bodies_may_be_compressed_both_ways(call, expected, photos, client, coding):
    sent = photos[:5]
    compression = {
        "request_compression_algorithm": coding,
        "response_compression_algorithm": coding,
    }
    results = call(client, "infer", MODEL, sent, **compression)
    for outputs, _ in results if client == "triton_aio" else [results]:
        expected(outputs, sent)


def test_the_asyncio_client_is_served_too(call, expected, photos):
    assert call("triton_aio", "is_server_ready") is True
    assert call("triton_aio", "get_model_metadata", MODEL)["name"] == MODEL
    results = call("triton_aio", "infer", MODEL, photos)
    assert len(results) == 5
    for outputs, _ in results[:1]:
        expected(outputs, photos)


def test_errors_reach_the_client_with_status_and_photo(call, photos):
    for sent, text in (
        ([photos[0], TRUNCATED], r"422 photo 1: the JPEG photo .*"),
        ([photos[0], photos[1], b"no photo"], r"415 photo 2: .*"),
        ([b""], r"400 photo 0: it is empty"),
        ([b"x" * (10 * 2**20 + 1)], r"413 photo 0: .*"),
        ([b"x"] * 129, r"413 send at most 128 photos.*"),
    ):
        assert re.fullmatch(text, call("triton", "infer", MODEL, sent))
    assert re.match("404 there is no model 'other'", call("triton", "infer", "other", photos[:1]))
    unknown = call("triton", "infer", MODEL, photos[:1], outputs=[("size", 0, True)])
    assert unknown.startswith("400 the model has no output 'size'")
    assert call("triton", "get_model_metadata", MODEL, "9").startswith("404 version '9'")
    assert call("triton", "load_model", MODEL).startswith("404")


def test_the_generated_client_sends_plain_json(call, expected, photos):
    for method in ("check_server_liveness", "check_server_readiness"):
        assert call("openapi", method) is None
    assert call("openapi", "check_model_readiness", MODEL) is None
    assert call("openapi", "check_model_version_readiness", MODEL, "2") is None
    assert call("openapi", "read_server_metadata")["extensions"]
    assert call("openapi", "read_model_metadata", MODEL)["versions"] == ["2"]
    sent = photos[:3]
    tensor = {
        "name": "photos", "shape": [3], "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(photo).decode() for photo in sent],
    }  # fmt: skip
    for method, model in (("model_infer", [MODEL]), ("model_version_infer", [MODEL, "2"])):
        answer = call("openapi", method, *model, request={"inputs": [tensor]})
        outputs = {
            each["name"]: np.array(each["data"], np.float32).reshape(each["shape"])
            for each in answer["outputs"]
        }
        expected(outputs, sent)
    wrong = {"inputs": [tensor | {"shape": [2]}]}
    assert call("openapi", "model_infer", MODEL, request=wrong).startswith("400")


def binary_call(photo, shift=0):
    body = (len(photo).to_bytes(4, "little")) + photo
    tensor = {
        "name": "photos", "shape": [1], "datatype": "BYTES",
        "parameters": {"binary_data_size": len(body)},
    }  # fmt: skip
    head = json.dumps({"inputs": [tensor]}).encode()
    return {
        "content": head + body,
        "headers": {"Inference-Header-Content-Length": str(len(head) + shift)},
    }


def with_coding(coding, body):
    request = binary_call(jpeg())
    return {"content": body, "headers": request["headers"] | {"Content-Encoding": coding}}


BOMB = zlib.compress(bytes(65 * 2**20))


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (binary_call(jpeg()), 200),
        (binary_call(jpeg(), 1), 400),
        (binary_call(jpeg(), 10**6), 400),
        ({"content": b""}, 400),
        ({"content": b"\xff\xd8"}, 400),
        (with_coding("deflate", BOMB), 413),
        (with_coding("gzip", b"no gzip"), 400),
        (with_coding("br", b"x"), 415),
        ({"content": b"x" * (64 * 2**20 + 1)}, 413),
    ],
    ids=["right", "cut late", "past the end", "empty", "no json", "bomb", "no gzip", "brotli",
         "too large"],
)  # fmt: skip
def test_what_is_wrong_is_an_error_of_the_protocol(client, request_, status):
    response = client.post(CALL, **request_)
    assert response.status_code == status, response.text
    if status != 200:
        assert list(response.json()) == ["error"]
        assert response.headers["content-type"] == "application/json"
    assert len(response.headers.get_list("x-request-id")) == 1


def test_the_client_chooses_the_coding_of_the_response(client):
    for accept, coding in (("gzip", "gzip"), ("deflate;q=0.5, gzip;q=0", "deflate"), ("br", None)):
        request = binary_call(jpeg())
        response = client.post(
            CALL, content=request["content"],
            headers=request["headers"] | {"Accept-Encoding": accept},
        )  # fmt: skip
        assert response.headers.get("content-encoding") == coding
        assert response.json()["model_name"] == MODEL


def test_calls_are_counted_by_the_name_of_their_route(client, call, photos):
    def counted():
        text = client.get("/metrics").text
        assert MODEL not in re.findall(r'route="([^"]*)"', text)
        return re.search(
            r'ray_mlc_photos_answered_total{[^}]*route="/v2/models/{model}/infer"[^}]*', text
        )

    before = call("triton", "get_inference_statistics", MODEL)["model_stats"][0]
    call("triton", "infer", MODEL, photos[:6], model_version="2")
    after = call("triton", "get_inference_statistics", MODEL)["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 6
    successes = [each["inference_stats"]["success"] for each in (before, after)]
    assert successes[1]["count"] == successes[0]["count"] + 1
    assert successes[1]["ns"] > successes[0]["ns"]
    wait_until(counted, "the photos are in the metrics", 30)


def test_models_need_a_key_where_v1_does(keyed, key, python, photos):
    call, headers = Clients(python, keyed.url), {"Authorization": f"Bearer {key}"}
    assert call("triton", "infer", MODEL, photos[:1]).startswith("401 send a key")
    assert call("triton", "get_model_metadata", MODEL).startswith("401")
    assert call("triton", "is_server_live") is False  # health has keys in this service
    outputs, _ = call("triton", "infer", MODEL, photos[:2], headers=headers)
    assert list(outputs) == list(HEADS)
    assert call("triton", "is_server_live", headers=headers) is True
    with httpx.Client(base_url=keyed.url, trust_env=False) as client:
        response = client.post(CALL, content=b"{}")
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert list(response.json()) == ["error"]
