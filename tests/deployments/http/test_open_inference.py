"""Claims about the Open Inference Protocol, without a cluster: the pipeline is played."""

import asyncio
import base64
import binascii
import json
import logging
import struct

import httpx
import numpy as np
import pytest
from played import PlayedPipeline
from recording import Recording

from deployments.errors import DeadlinePassed, Overloaded
from deployments.http.api import build_api
from deployments.http.disconnects import Disconnects
from deployments.http.photo_route import Telemetry
from deployments.messages import Trace
from deployments.pipeline.dispatcher import Dispatched
from deployments.settings import Limits, RequestLogSettings, Settings
from deployments.telemetry.catalogue import PHOTOS_ANSWERED, PROBLEMS, REQUEST_DURATION
from deployments.telemetry.request_log import RequestLog
from mlc_core.errors import UndecodablePhoto
from mlc_core.labels import Choice

SETTINGS = Settings(
    limits=Limits(max_photo_bytes=1000, max_infer_photos=3, max_request_bytes=5000),
    retry_after_s=7,
)
CLASSES = ["Red", "Blue", "Navy: dark"]
MODEL, CALL = "/v2/models/fashion", "/v2/models/fashion/infer"


def answer(version="2", probabilities=(0.5, 0.2, 0.3)):
    head = binascii.b2a_base64(np.array(probabilities, "<f4").tobytes(), newline=False).decode()
    return json.dumps(
        {"model": {"name": "fashion", "version": version}, "labels": {},
         "probabilities": {"color": head}, "embedding": {"digest": "d", "vector": [0.6, 0.8]}}
    ).encode()  # fmt: skip


class Pipeline(PlayedPipeline):
    """Answers each photo with what a test planned for its bytes."""

    def __init__(self):
        self.planned, self.asked = {}, []

    def submit(self, data, choice, _request_id):
        self.asked.append((data, choice))
        planned = self.planned.get(data, answer())
        planned = planned.pop(0) if isinstance(planned, list) else planned
        future = asyncio.get_running_loop().create_future()
        if isinstance(planned, Overloaded):
            future.set_exception(planned)
        elif planned is not None:
            trace = Trace({"inference": 0.25}, 1, "fashion/2")
            future.set_result(Dispatched(planned, "small_photos_queue", 0.5, trace))
        return future


class Application:
    def __init__(self, pipeline, not_ready=lambda: None):
        self.recorder = Recording()
        log = RequestLog(RequestLogSettings(), logging.NullHandler(), self.recorder)
        self.model = {
            "name": "fashion", "version": "2", "engine": "onnxruntime",
            "heads": {"color": CLASSES}, "embedding": {"dimensions": 2, "digest": "d"},
        }  # fmt: skip
        self.described = 0
        app = build_api(
            pipeline, self._describe, not_ready, SETTINGS, Telemetry(self.recorder, log),
            Disconnects(),
        )  # fmt: skip
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://service")

    async def _describe(self):
        self.described += 1
        return self.model


@pytest.fixture
def photos():
    return Pipeline()


@pytest.fixture
def application(photos):
    return Application(photos)


@pytest.fixture
def client(application):
    return application.client


def as_json(*photos, **more):
    data = [base64.b64encode(photo).decode() for photo in photos]
    tensor = {
        "name": "photos", "shape": [len(data)], "datatype": "BYTES", "data": data,
        "parameters": {"content_type": "base64"},
    }  # fmt: skip
    return {"json": {"inputs": [tensor]} | more}


def as_binary(*photos, **more):
    rest = b"".join(struct.pack("<I", len(photo)) + photo for photo in photos)
    tensor = {
        "name": "photos", "shape": [len(photos)], "datatype": "BYTES",
        "parameters": {"binary_data_size": len(rest)},
    }  # fmt: skip
    head = json.dumps({"inputs": [tensor]} | more).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return {"content": head + rest, "headers": headers}


def error(response, status):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (text,) = response.json().values()
    assert list(response.json()) == ["error"]
    return text


@pytest.mark.parametrize("send", [as_json, as_binary])
@pytest.mark.parametrize("path", [CALL, "/v2/models/fashion/versions/2/infer"])
async def test_photos_get_the_probabilities_of_each_head(client, photos, send, path):
    response = await client.post(path, **send(b"a", b"b", id="r7"))
    assert response.json() == {
        "model_name": "fashion", "model_version": "2", "id": "r7",
        "outputs": [
            {"name": "color", "datatype": "FP32", "shape": [2, 3],
             "data": pytest.approx([0.5, 0.2, 0.3] * 2)}
        ],
    }  # fmt: skip
    assert photos.asked == [(each, Choice(probabilities=True)) for each in (b"a", b"b")]


async def test_binary_outputs_follow_the_json(client):
    outputs = [
        {"name": "color", "parameters": {"classification": 2, "binary_data": True}},
        {"name": "embedding", "parameters": {"binary_data": True}},
    ]
    response = await client.post(CALL, **as_binary(b"a", outputs=outputs))
    length = int(response.headers["inference-header-content-length"])
    assert response.headers["content-type"] == "application/octet-stream"
    head, rest = json.loads(response.content[:length]), response.content[length:]
    sizes = [each.get("parameters", {}).get("binary_data_size") for each in head["outputs"]]
    assert sizes == [len(rest) - 8, 8]
    assert head["outputs"][0]["shape"] == [1, 2]
    texts = [b"0.500000:0:Red", b"0.300000:2:Navy: dark"]
    assert rest[:-8] == b"".join(struct.pack("<I", len(text)) + text for text in texts)
    np.testing.assert_allclose(np.frombuffer(rest[-8:], "<f4"), [0.6, 0.8])


async def test_without_outputs_the_request_decides_whether_all_are_binary(client):
    parameters = {"binary_data_output": True, "priority": 3, "timeout": 5}
    response = await client.post(CALL, **as_binary(b"a", parameters=parameters))
    length = int(response.headers["inference-header-content-length"])
    (output,) = json.loads(response.content[:length])["outputs"]
    assert (output["name"], output["parameters"]) == ("color", {"binary_data_size": 12})


@pytest.mark.parametrize("count", [1, 2])
async def test_of_equal_probabilities_the_first_class_counts(client, photos, count):
    photos.planned[b"a"] = answer(probabilities=(0.2, 0.4, 0.4))
    outputs = [{"name": "color", "parameters": {"classification": count}}]
    (output,) = (await client.post(CALL, **as_json(b"a", outputs=outputs))).json()["outputs"]
    assert output["data"] == ["0.400000:1:Blue", "0.400000:2:Navy: dark"][:count]


async def test_more_classes_than_there_are_is_all_of_them(client):
    outputs = [{"name": "color", "parameters": {"classification": 9}}]
    (output,) = (await client.post(CALL, **as_json(b"a", outputs=outputs))).json()["outputs"]
    assert output["shape"] == [1, 3]
    assert [text.split(":")[1] for text in output["data"]] == ["0", "2", "1"]


async def test_a_bad_photo_fails_the_call_with_its_number_and_status(client, photos):
    photos.planned[b"bad"] = UndecodablePhoto("truncated")
    response = await client.post(CALL, **as_binary(b"a", b"bad", b"c"))
    assert error(response, 422) == "photo 1: truncated"


async def test_more_elements_than_the_shape_says_are_not_even_counted(client):
    sent = as_binary(b"a", *[b""] * 1000)
    sent["content"] = sent["content"].replace(b'"shape": [1001]', b'"shape": [1]   ')
    assert "more elements than its shape says, 1" in error(await client.post(CALL, **sent), 400)


async def test_base64_may_have_spaces_but_not_of_any_length(client, photos):
    tensor = {"name": "photos", "datatype": "BYTES", "shape": [1],
              "parameters": {"content_type": "base64"}}  # fmt: skip
    for data, status in ((" Y\nQ\t=\r\n= ", 200), ("Y " * 1001, 413)):
        response = await client.post(CALL, json={"inputs": [tensor | {"data": [data]}]})
        assert response.status_code == status
    assert [photo for photo, _ in photos.asked] == [b"a"]


@pytest.mark.parametrize("send", [as_json, as_binary])
@pytest.mark.parametrize(
    ("sent", "status", "says"),
    [
        ([b"a", b"x" * 1001], 413, "photo 1: more than 1000 bytes"),
        ([b"a", b""], 400, "photo 1: it is empty"),
        ([b"a"] * 4, 413, "at most 3 photos"),
        ([], 400, "has the shape [0]"),
    ],
)
async def test_what_is_over_a_limit_or_missing_is_refused(client, photos, send, sent, status, says):
    assert says in error(await client.post(CALL, **send(*sent)), status)
    assert photos.asked == []


def request(**changes):
    (tensor,) = as_json(b"a")["json"]["inputs"]
    return {"inputs": [tensor | changes]}


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        ({}, "missing required field `inputs`"),
        ([], "Expected `object`"),
        ({"inputs": []}, "the inputs are none"),
        ({"inputs": [*request()["inputs"], *request()["inputs"]]}, "send one"),
        (request(name="size"), "the inputs are 'size'"),
        (request(datatype="FP32"), "must be BYTES"),
        (request(shape=[2]), "has the shape [2] and 1 elements"),
        (request(shape=[1, 2]), "must be [N] or [N, 1]"),
        (request(shape=[-1]), "must be [N] or [N, 1]"),
        (request(shape=[]), "must be [N] or [N, 1]"),
        (request(data=["a dress"]), "photo 0: it is no base64"),
        (request(data=["ö"]), "photo 0: it is no base64"),
        (request(data=[1]), "the data of photos is wrong"),
        (request(data="YQ=="), "the data of photos is wrong"),
        (request(parameters=None), "photos in JSON are base64"),
        (request(parameters={"content_type": "str"}), "photos in JSON are base64"),
        (request(parameters={"binary_data_size": 4}), "either data or a binary_data_size"),
        (request(parameters={"binary_data_size": -1}), "the JSON of the request is wrong"),
        (request(parameters={"binary_data_size": 10**4000}), "the JSON of the request is wrong"),
        (request(shape=[10**4000]), "the JSON of the request is wrong"),
        (request(parameters={"shared_memory_region": "r"}), "no shared memory"),
        (request() | {"outputs": [{"name": "size"}]}, "it has color, embedding"),
        (request() | {"outputs": [{"name": "color"}] * 3}, "3 outputs are named; the model has 2"),
        (
            request() | {"outputs": [{"name": "embedding", "parameters": {"classification": 1}}]},
            "has no classes",
        ),
        (
            request()
            | {"outputs": [{"name": "color", "parameters": {"shared_memory_region": "r"}}]},
            "no shared memory",
        ),
    ],
)
async def test_what_is_no_request_of_the_protocol_is_refused_with_why(client, photos, sent, says):
    assert says in error(await client.post(CALL, json=sent), 400)
    assert photos.asked == []


@pytest.mark.parametrize("length", ["-1", "x", "1e2", "", "9" * 20, "9999"])
async def test_a_wrong_length_of_the_json_is_refused(client, length):
    sent = as_binary(b"a")
    sent["headers"]["Inference-Header-Content-Length"] = length
    assert "Inference-Header-Content-Length" in error(await client.post(CALL, **sent), 400)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"inputs":' + b"[" * 4000, b"\xff", b'"\xff"'])
async def test_json_that_can_not_be_read_is_refused(photos, body):
    client = Application(photos).client
    error(await client.post(CALL, content=body[:5000]), 400)


@pytest.mark.parametrize("cut", [1, 3, 5])
async def test_binary_photos_that_were_cut_off_are_refused(client, cut):
    sent = as_binary(b"abc")
    head = int(sent["headers"]["Inference-Header-Content-Length"])
    tensor = json.loads(sent["content"][:head])
    tensor["inputs"][0]["parameters"]["binary_data_size"] -= cut
    text = json.dumps(tensor).encode()
    content = text + sent["content"][head:-cut]
    headers = {"Inference-Header-Content-Length": str(len(text))}
    assert "photo 0" in error(await client.post(CALL, content=content, headers=headers), 400)


async def test_texts_may_be_nested_as_their_shape_is(client, photos):
    await client.post(CALL, json=request(shape=[2, 1], data=[["YQ=="], ["Yg=="]]))
    assert [data for data, _ in photos.asked] == [b"a", b"b"]


async def test_base64_may_be_told_by_the_request_and_be_binary(client, photos):
    parameters = {"content_type": "base64"}
    await client.post(CALL, json=request(parameters=None) | {"parameters": parameters})
    await client.post(CALL, **as_binary(b"YQ==\n", parameters=parameters))
    assert [data for data, _ in photos.asked] == [b"a", b"a"]


async def test_a_full_queue_refuses_the_whole_call_and_drops_its_photos(client, photos):
    photos.planned = {b"a": None, b"late": Overloaded("full")}
    response = await client.post(CALL, **as_binary(b"a", b"late"))
    assert error(response, 503) == "full"
    assert response.headers["retry-after"] == "7"


async def test_photos_are_counted_by_the_status_of_their_call(application, photos):
    photos.planned = {b"bad": UndecodablePhoto("truncated"), b"late": DeadlinePassed("late")}
    for sent in ([b"a", b"b"], [b"a", b"bad"], [b"late"], []):
        await application.client.post(CALL, **as_binary(*sent))
    await application.client.get("/v2/models/fashion/versions/9")
    await application.client.get("/v2/models/fashion/other")
    recorder = application.recorder
    assert recorder.values(PHOTOS_ANSWERED) == [2, 2, 1]
    assert recorder.labels(PHOTOS_ANSWERED) == [
        {"route": "/v2/models/{model}/infer", "status": status} for status in ("200", "422", "504")
    ]
    assert [(each["route"], each["status"]) for each in recorder.labels(REQUEST_DURATION)] == [
        *(("/v2/models/{model}/infer", status) for status in ("200", "422", "504", "400")),
        ("/v2/models/{model}", "404"), ("other", "404"),
    ]  # fmt: skip
    assert [each["problem"] for each in recorder.labels(PROBLEMS)] == [
        "undecodable-photo", "deadline-passed", "malformed-request", "model-unknown", "not-found",
    ]  # fmt: skip


async def test_a_call_asks_no_classifier_which_model_it_has(application):
    for _ in range(3):
        assert (await application.client.post(CALL, **as_json(b"a"))).status_code == 200
    assert application.described == 1


async def test_a_model_that_was_swapped_answers_under_its_own_version(application, photos):
    client = application.client
    await client.post(CALL, **as_json(b"a"))
    application.model = application.model | {"version": "3"}
    photos.planned[b"a"] = answer("3")
    assert (await client.post(CALL, **as_json(b"a"))).json()["model_version"] == "3"
    versioned = "/v2/models/fashion/versions/{}/infer"
    assert (await client.post(versioned.format(3), **as_json(b"a"))).status_code == 200
    response = await client.post(versioned.format(2), **as_json(b"a"))
    assert error(response, 404) == "version '2' of fashion is not in service; 3 is"


async def test_a_call_is_read_by_the_heads_of_the_model_that_answers(application, photos):
    client = application.client
    await client.post(CALL, **as_json(b"a"))  # this ingress knows the model now
    heads = {"size": ["S", "M", "L"]}
    application.model = application.model | {"version": "3", "heads": heads}
    planned = json.loads(answer("3"))
    planned["probabilities"] = {"size": planned["probabilities"]["color"]}
    photos.planned[b"a"] = json.dumps(planned).encode()
    for more in ({"outputs": [{"name": "size"}]}, {}):
        application.model["version"] += "0"
        planned["model"]["version"] = application.model["version"]
        photos.planned[b"a"] = json.dumps(planned).encode()
        response = await client.post(CALL, **as_json(b"a", **more))
        assert [each["name"] for each in response.json()["outputs"]] == ["size"]
    refused = await client.post(CALL, **as_json(b"a", outputs=[{"name": "color"}]))
    assert "no output 'color'" in error(refused, 400)


async def test_a_version_that_is_swapped_during_its_call_is_no_longer_there(application, photos):
    await application.client.post(CALL, **as_json(b"a"))
    application.model = application.model | {"version": "3"}
    photos.planned[b"a"] = answer("3")
    response = await application.client.post("/v2/models/fashion/versions/2/infer", **as_json(b"a"))
    assert "'2' of fashion is not in service" in error(response, 404)


async def test_the_answers_of_a_call_are_of_one_model(application, photos):
    photos.planned[b"a"] = [answer("3"), answer()]
    response = await application.client.post(CALL, **as_json(b"a", b"b"))
    assert response.json()["model_version"] == "2"
    photos.planned[b"a"] = [answer("3")] * 3
    response = await application.client.post(CALL, **as_json(b"a", b"b"))
    assert "changed meanwhile" in error(response, 503)


@pytest.mark.parametrize(
    "path", ["/v2/models/other", "/v2/models/other/infer", "/v2/models/fashion/versions/1/infer",
             "/v2/models/other/stats", "/v2/repository/index", "/v2/logging"],
)  # fmt: skip
async def test_what_is_not_there_is_an_error_of_the_protocol(client, path):
    for method in ("GET", "POST"):
        response = await client.request(method, path)
        error(response, 405 if response.status_code == 405 else 404)


async def test_readiness_is_that_of_the_pipeline(photos):
    client = Application(photos, lambda: "no answer yet").client
    assert (await client.get("/v2/health/live")).status_code == 200
    for path in ("/v2/health/ready", f"{MODEL}/ready", f"{MODEL}/versions/2/ready"):
        response = await client.get(path)
        assert response.status_code == 503
        assert response.json()["ready"] is False
        assert response.json()["error"] == "no answer yet"


async def test_statistics_add_up(client, photos):
    photos.planned[b"bad"] = UndecodablePhoto("truncated")
    for sent in ([b"a", b"b"], [b"a"], [b"bad"]):
        await client.post(CALL, **as_binary(*sent))
    (stats,) = (await client.get(f"{MODEL}/stats")).json()["model_stats"]
    assert (stats["name"], stats["version"], stats["inference_count"]) == ("fashion", "2", 3)
    spent = stats["inference_stats"]
    assert [spent[name]["count"] for name in ("success", "fail", "compute_infer")] == [2, 1, 2]
    assert spent["compute_infer"]["ns"] == 500_000_000
    assert spent["queue"]["ns"] == 1_000_000_000


IMAGES = np.arange(2 * 2 * 5 * 3, dtype=np.uint8).reshape(2, 2, 5, 3)


def image_request(**changes):
    tensor = {"name": "images", "shape": [2, 2, 5, 3], "datatype": "UINT8"} | changes
    return {"json": {"inputs": [tensor]}}


@pytest.mark.parametrize(
    "data", [IMAGES.tolist(), IMAGES.ravel().tolist(), IMAGES.astype(float).tolist()]
)
async def test_images_go_through_the_pipeline_as_photos(client, photos, data):
    assert (await client.post(CALL, **image_request(data=data))).status_code == 200
    assert [photo[:2] for photo, _ in photos.asked] == [b"BM", b"BM"]


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"data": [1]}, 400, "and 1 elements"),
        ({"data": [256] * 60}, 400, "whole numbers, 0 to 255"),
        ({"data": [-1] * 60}, 400, "whole numbers, 0 to 255"),
        ({"data": [0.5] * 60}, 400, "whole numbers, 0 to 255"),
        ({"data": [True] * 60}, 400, "the data of images is wrong"),
        ({"data": ["1"] * 60}, 400, "the data of images is wrong"),
        ({"data": {"a": 1}}, 400, "the data of images is wrong"),
        ({"data": []}, 400, "and 0 elements"),
        ({"data": [1], "shape": [2, 2, 5, 4]}, 400, "[N, height, width, 3]"),
        ({"data": [1], "shape": [60]}, 400, "[N, height, width, 3]"),
        ({"data": [1], "shape": [1, 20, 20, 3]}, 413, "each image has more than 1000 bytes"),
        ({"data": [1], "datatype": "FP32"}, 400, "must be UINT8"),
    ],
)
async def test_images_that_are_none_are_refused_with_why(client, photos, changes, status, says):
    assert says in error(await client.post(CALL, **image_request(**changes)), status)
    assert photos.asked == []
