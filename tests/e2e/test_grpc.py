"""The gRPC service of the Open Inference Protocol, by the unmodified `tritonclient` from PyPI."""

import base64
import json
import re
import subprocess

import grpc
import numpy as np
import pytest
from google.protobuf.json_format import ParseDict
from inference_environment import Clients, make_environment
from photos import TRUNCATED, jpeg
from services import PROJECT, environment, wait_until

from deployments.http import open_inference_pb2 as messages
from mlc_core.labels import Choice
from mlc_core.spec import HEADS, Spec

MODEL = "fashion"


@pytest.fixture(scope="module")
def python():
    return make_environment()


@pytest.fixture
def call(python, keyed, grpc_port, key):
    clients = Clients(python, f"127.0.0.1:{grpc_port}")

    def call(method, *arguments, **options):
        headers = {"headers": {"authorization": f"Bearer {key}"}}
        return clients("triton_grpc", method, *arguments, **(headers | options))

    return call


def test_the_program_of_the_page_works_as_printed(python, keyed, grpc_port, key):
    page = (PROJECT / "docs/open-inference.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n([^`]*tritonclient.grpc.*?)```", page, re.DOTALL)
    program = program.replace("127.0.0.1:9000", f"127.0.0.1:{grpc_port}")
    with_key = f'outputs=outputs, headers={{"authorization": "Bearer {key}"}}'
    program = program.replace("outputs=outputs", with_key)
    done = subprocess.run(
        [python, "-c", program], cwd=PROJECT, env=environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ":130:Tshirts" in done.stdout, done.stderr
    assert "(2, 46)" in done.stdout


def test_server_and_model_say_what_they_are_and_that_they_are_ready(call, shipped_model):
    assert call("is_server_live") is True
    assert call("is_server_ready") is True
    assert call("is_model_ready", MODEL) is True
    assert call("is_model_ready", MODEL, "1") is False
    assert call("is_model_ready", "other") is False
    assert "binary_tensor_data" in call("get_server_metadata", as_json=True)["extensions"]
    spec = Spec.from_json((shipped_model / "spec.json").read_text())
    metadata = call("get_model_metadata", MODEL, as_json=True)
    assert metadata["versions"] == ["2"]
    assert {each["name"]: int(each["shape"][1]) for each in metadata["outputs"]} == spec.outputs


@pytest.mark.parametrize("count", [1, 100])
def test_photos_get_the_probabilities_of_their_labels(call, answer_here, shipped_model, count):
    spec = Spec.from_json((shipped_model / "spec.json").read_text())
    photos = [jpeg(seed) for seed in range(count)]
    outputs, response = call("infer", MODEL, photos, request_id="r7")
    assert (response["model_name"], response["model_version"]) == (MODEL, "2")
    assert response["id"] == "r7"
    assert list(outputs) == list(HEADS)
    for head in HEADS:
        assert outputs[head].shape == (count, len(spec.heads[head]))
    for row, photo in enumerate(photos):
        labels = answer_here(photo, Choice(consistent=False))["labels"]
        for head in HEADS:
            probabilities = outputs[head][row]
            assert spec.heads[head][probabilities.argmax()] == labels[head]["label"]
            assert abs(probabilities.max() - labels[head]["confidence"]) < 1e-3


def test_images_are_named_and_outputs_come_as_they_are_asked_for(call):
    images = np.full((2, 80, 60, 3), 255, np.uint8)
    outputs, _ = call("infer", MODEL, images, "images", outputs=[("category", 3), ("embedding", 0)])
    assert outputs["category"].shape == (2, 3)
    assert outputs["category"][0, 0].decode().count(":") == 2
    np.testing.assert_allclose((outputs["embedding"] ** 2).sum(axis=1), 1, atol=1e-2)


@pytest.mark.parametrize(
    ("model", "photos", "options", "code", "text"),
    [
        ("other", [jpeg()], {}, "NOT_FOUND", "fashion is in service"),
        (MODEL, [jpeg(), TRUNCATED], {}, "INVALID_ARGUMENT", "photo 1: "),
        (MODEL, [jpeg()] * 129, {}, "INVALID_ARGUMENT", "at most 128 photos"),
        (MODEL, [b"x" * 2**26], {}, "RESOURCE_EXHAUSTED", "larger than max"),
        (MODEL, [jpeg()], {"headers": {}}, "UNAUTHENTICATED", "send a key"),
        (MODEL, [jpeg()], {"outputs": [("size", 0)]}, "INVALID_ARGUMENT", "no output 'size'"),
    ],
    ids=["model", "photo", "photos", "message", "key", "output"],
)
def test_an_error_is_the_code_of_the_call(call, model, photos, options, code, text):
    error = call("infer", model, photos, **options)
    assert error.startswith(f"StatusCode.{code} "), error
    assert text in error


def test_a_call_is_in_the_request_log_with_its_key(call, keyed, key):
    headers = {"authorization": f"Bearer {key}", "request_id": "grpc-7"}
    call("infer", MODEL, [jpeg(), jpeg(1)], headers=headers)

    def logged():
        files = keyed.logs.glob("requests_*_Ingress_*.log")
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return [each for each in lines if each["request_id"] == "grpc-7"]

    wait_until(logged, "the line of the call", 10)
    (line,) = logged()
    assert line["route"] == "/v2/models/{model}/infer"
    assert (line["photos"], line["status"], line["key"]) == (2, 200, "shop")


@pytest.fixture
def infer(keyed, grpc_port, key):
    """Sends a message, as clients do that put contents into their tensors."""
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        method = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            messages.ModelInferRequest.SerializeToString,
            messages.ModelInferResponse.FromString,
        )

        def infer(tensor, *raw, request_id=""):
            request = {"model_name": MODEL, "inputs": [tensor]}
            message = ParseDict(request, messages.ModelInferRequest(raw_input_contents=raw))
            metadata = [("authorization", f"Bearer {key}"), ("request_id", request_id)]
            return method.with_call(message, metadata=metadata, timeout=30)

        yield infer


def test_contents_are_taken_as_raw_ones_are(infer):
    photo = jpeg()
    tensor = {"name": "photos", "datatype": "BYTES", "shape": [1]}
    encoded = {"bytes_contents": [base64.b64encode(photo).decode()]}  # JSON's form of bytes
    raw, _ = infer(tensor, len(photo).to_bytes(4, "little") + photo)
    assert infer(tensor | {"contents": encoded})[0] == raw
    images = {"name": "images", "datatype": "UINT8", "shape": [1, 1, 2, 3]}
    raw, _ = infer(images, bytes([0, 50, 100, 150, 200, 255]))
    numbers = {"uint_contents": [0, 50, 100, 150, 200, 255]}
    assert infer(images | {"contents": numbers})[0] == raw


@pytest.mark.parametrize(
    ("contents", "raw", "text"),
    [
        ({"uint_contents": [256] * 6}, (), "must be 0 to 255"),
        ({"fp32_contents": [0.5] * 6}, (), "0 elements"),
        ({}, (b"x", b"y"), "1 inputs and 2 raw_input_contents"),
    ],
)
def test_wrong_contents_are_refused(infer, contents, raw, text):
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 1, 2, 3], "contents": contents}
    with pytest.raises(grpc.RpcError) as raised:
        infer(tensor, *raw)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert text in raised.value.details()


def test_a_request_id_that_is_unfit_for_a_log_is_replaced(infer):
    image = {"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 3]}
    for sent, stays in (("form-7", True), ("x" * 200, False), ("a b", False)):
        _, call = infer(image, b"rgb", request_id=sent)
        assert (dict(call.trailing_metadata())["request_id"] == sent) == stays
