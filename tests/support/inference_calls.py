"""Calls unmodified clients of the Open Inference Protocol, one for each run of this script.

It runs in the environment of inference_environment.py, which has no package of this project.
"""

import asyncio
import base64
import pickle
import sys

import numpy as np
import tritonclient.grpc
import tritonclient.http
import tritonclient.http.aio
from open_inference.openapi.client import InferenceRequest, OpenInferenceClient
from open_inference.openapi.core.api_error import ApiError
from tritonclient.utils import InferenceServerException, np_to_triton_dtype


def tensor(values):
    return np.array(values, object) if isinstance(values, list) else values


def asked(library, model, values, name="photos", outputs=None, binary=True, **options):
    """Arguments of `infer` of tritonclient.

    Args:
        values: photos as bytes, or an array of images.
        outputs: (name, classes, binary) of each; None for the client's default.
    """
    if not binary and isinstance(values, list):
        values = [base64.b64encode(photo).decode() for photo in values]
        options = {"parameters": {"content_type": "base64"}} | options
    values = tensor(values)
    given = library.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    given.set_data_from_numpy(values, binary_data=binary)
    wanted = outputs and [
        library.InferRequestedOutput(name, binary_data=is_binary, class_count=classes)
        for name, classes, is_binary in outputs
    ]
    return {"model_name": model, "inputs": [given], "outputs": wanted} | options


def tensors(result):
    """The outputs of tritonclient's result, and its JSON."""
    response = result.get_response()
    return {each["name"]: result.as_numpy(each["name"]) for each in response["outputs"]}, response


def triton(address, method, *arguments, **options):
    with tritonclient.http.InferenceServerClient(address) as client:
        if method == "infer":
            return tensors(client.infer(**asked(tritonclient.http, *arguments, **options)))
        return getattr(client, method)(*arguments, **options)


def triton_aio(address, method, *arguments, **options):
    library = tritonclient.http.aio

    async def call():
        async with library.InferenceServerClient(address) as client:
            if method != "infer":
                return await getattr(client, method)(*arguments, **options)
            results = await asyncio.gather(
                *(client.infer(**asked(library, *arguments, **options)) for _ in range(5))
            )
            return [tensors(result) for result in results]

    return asyncio.run(call())


def triton_grpc(address, method, *arguments, **options):
    library = tritonclient.grpc
    with library.InferenceServerClient(address) as client:
        if method != "infer":
            return getattr(client, method)(*arguments, **options)
        model, values, name = (*arguments, "photos")[:3]
        values = tensor(values)
        given = library.InferInput(name, values.shape, np_to_triton_dtype(values.dtype))
        given.set_data_from_numpy(values)
        wanted = [
            library.InferRequestedOutput(name, class_count=classes)
            for name, classes in options.pop("outputs", ())
        ]
        result = client.infer(model, [given], outputs=wanted or None, **options)
        response = result.get_response(as_json=True)
        names = [each["name"] for each in response["outputs"]]
        return {name: result.as_numpy(name) for name in names}, response


def openapi(address, method, *arguments, **options):
    client = OpenInferenceClient(base_url=f"http://{address}")
    if "request" in options:
        options["request"] = InferenceRequest(**options["request"])
    answer = getattr(client, method)(*arguments, **options)
    return answer and answer.dict()


def main():
    address, client, method, arguments, options = pickle.load(sys.stdin.buffer)  # noqa: S301  (of the tests)
    try:
        answer = globals()[client](address, method, *arguments, **options)
    except InferenceServerException as error:
        answer = f"{error.status()} {error.message()}"
    except ApiError as error:
        answer = f"{error.status_code} {error.body}"
    pickle.dump(answer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
