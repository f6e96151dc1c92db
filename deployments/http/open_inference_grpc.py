"""The Open Inference Protocol by gRPC: each call becomes the HTTP request that it stands for.

So keys, rates, limits, metrics, traces and the request log are those of `/v2`. A gRPC message has
raw tensors as they follow the JSON of an HTTP request.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import grpc
import msgspec
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message as Protobuf
from ray.serve.grpc_util import RayServegRPCContext
from starlette.types import ASGIApp, Message, Scope

from deployments.http import open_inference_pb2 as messages
from deployments.http.middleware import is_sane_id
from deployments.http.open_inference import JSON_BYTES, LIVE, READY, SERVER

_SERVICE = messages.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_LENGTH = struct.Struct("<I")
_REQUEST_ID = "request_id"  # Serve's name for it in metadata
# Metadata of a call that its request has as headers.
_HEADERS = ("authorization", "traceparent", "tracestate")
_RETRY_AFTER = "retry-after"
_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}  # all others are INVALID_ARGUMENT

_Answer = TypeVar("_Answer", bound=Protobuf)


class _Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def add_service(servicer: object, server: Any) -> None:
    """What `grpc_servicer_functions` of a Serve config names: adds the service to a gRPC server."""
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method.name),
            request_deserializer=getattr(messages, method.input_type.name).FromString,
            response_serializer=Protobuf.SerializeToString,
        )
        for method in _SERVICE.methods
    }
    handler = grpc.method_handlers_generic_handler(_SERVICE.full_name, handlers)
    server.add_generic_rpc_handlers((handler,))


class OpenInferenceService:
    """The calls of the service. Serve calls the method that has the name of the call.

    An error is the code and the details of the call.

    Attributes:
        application: answers the requests.
    """

    application: ASGIApp

    async def ServerLive(self, _: Any, grpc_context: RayServegRPCContext) -> Protobuf:  # noqa: N802
        response = await self._ask(grpc_context, LIVE)
        return _answer(messages.ServerLiveResponse(), response, grpc_context)

    async def ServerReady(self, _: Any, grpc_context: RayServegRPCContext) -> Protobuf:  # noqa: N802
        response = await self._ask(grpc_context, READY)
        return _readiness(messages.ServerReadyResponse(), response, grpc_context)

    async def ServerMetadata(self, _: Any, grpc_context: RayServegRPCContext) -> Protobuf:  # noqa: N802
        response = await self._ask(grpc_context, SERVER)
        return _answer(messages.ServerMetadataResponse(), response, grpc_context)

    async def ModelReady(self, request: Any, grpc_context: RayServegRPCContext) -> Protobuf:  # noqa: N802
        path = _path(request.name, request.version)
        response = await self._ask(grpc_context, f"{path}/ready")
        return _readiness(messages.ModelReadyResponse(), response, grpc_context)

    async def ModelMetadata(self, request: Any, grpc_context: RayServegRPCContext) -> Protobuf:  # noqa: N802
        response = await self._ask(grpc_context, _path(request.name, request.version))
        return _answer(messages.ModelMetadataResponse(), response, grpc_context)

    async def ModelInfer(self, request: Any, grpc_context: RayServegRPCContext) -> Protobuf:  # noqa: N802
        answer = messages.ModelInferResponse()
        try:
            text, raw = _infer_body(request)
        except ValueError as error:
            return _fail(answer, grpc.StatusCode.INVALID_ARGUMENT, str(error), grpc_context)
        path = _path(request.model_name, request.model_version)
        response = await self._ask(grpc_context, f"{path}/infer", text, raw)
        if response.status != HTTPStatus.OK:
            return _answer(answer, response, grpc_context)
        at = int(response.headers[JSON_BYTES])
        fields = msgspec.json.decode(response.body[:at])
        for output in fields["outputs"]:
            end = at + output.pop("parameters")["binary_data_size"]
            answer.raw_output_contents.append(response.body[at:end])
            at = end
        return ParseDict(fields, answer)

    async def _ask(
        self,
        context: RayServegRPCContext,
        path: str,
        text: bytes | None = None,
        raw: Sequence[bytes] = (),
    ) -> _Response:
        """The response to a GET, or to a POST of JSON and the tensors that follow it."""
        metadata = dict(context.invocation_metadata())
        headers = {name: metadata[name] for name in _HEADERS if name in metadata}
        headers["x-request-id"] = _request_id(context)
        body = b"" if text is None else b"".join((text, *raw))
        if text is not None:
            headers |= {JSON_BYTES: str(len(text)), "content-length": str(len(body))}
        scope: Scope = {
            "type": "http", "http_version": "2", "method": "GET" if text is None else "POST",
            "scheme": "http", "path": path, "raw_path": quote(path).encode(), "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }  # fmt: skip
        status, received, parts, read = 0, dict[str, str](), list[bytes](), False

        async def receive() -> Message:
            nonlocal read
            if read:  # Serve cancels this call when its client leaves
                await asyncio.Event().wait()
            read = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                received.update(
                    (name.decode().lower(), value.decode()) for name, value in message["headers"]
                )
            else:
                parts.append(message.get("body", b""))

        await self.application(scope, receive, send)
        if _RETRY_AFTER in received:
            retry_after = (_RETRY_AFTER, received[_RETRY_AFTER])
            context.set_trailing_metadata([*context.trailing_metadata(), retry_after])
        return _Response(status, received, b"".join(parts))


def _path(model: str, version: str) -> str:
    # A slash would make another path of it.
    path = f"{SERVER}/models/{model.replace('/', '%2F')}"
    return f"{path}/versions/{version.replace('/', '%2F')}" if version else path


def _infer_body(request: Any) -> tuple[bytes, Sequence[bytes]]:
    """The JSON of a request for inference, and its raw tensors.

    Raises:
        ValueError: a tensor has no contents, or of a wrong type.
    """
    raw = list(request.raw_input_contents) or [_raw(tensor) for tensor in request.inputs]
    if len(raw) != len(request.inputs):
        raise ValueError(
            f"there are {len(request.inputs)} inputs and {len(raw)} raw_input_contents"
        )
    inputs = [
        {
            "name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape),
            "parameters": _parameters(tensor) | {"binary_data_size": len(contents)},
        }
        for tensor, contents in zip(request.inputs, raw, strict=True)
    ]  # fmt: skip
    outputs = [
        {"name": output.name, "parameters": _parameters(output) | {"binary_data": True}}
        for output in request.outputs
    ]
    parameters = _parameters(request) | {"binary_data_output": True}
    fields = {"id": request.id, "inputs": inputs, "outputs": outputs, "parameters": parameters}
    return msgspec.json.encode(fields), raw


def _raw(tensor: Any) -> bytes:
    """The contents of a tensor that are numbers or elements of a message, as raw contents."""
    contents = tensor.contents
    if tensor.datatype == "BYTES":
        parts = [(_LENGTH.pack(len(each)), each) for each in contents.bytes_contents]
        return b"".join([part for pair in parts for part in pair])
    if tensor.datatype == "UINT8":
        try:
            return bytes(contents.uint_contents)
        except ValueError as error:
            raise ValueError(f"the uint_contents of {tensor.name!r} must be 0 to 255") from error
    return b""


def _parameters(message: Any) -> dict[str, Any]:
    return {
        name: getattr(parameter, kind)
        for name, parameter in message.parameters.items()
        if (kind := parameter.WhichOneof("parameter_choice"))
    }


def _request_id(context: RayServegRPCContext) -> str:
    """The id of a call, which goes back to the client: its own if it is fit for a log."""
    trailing = dict(context.trailing_metadata())
    if not is_sane_id(trailing[_REQUEST_ID].encode()):
        trailing[_REQUEST_ID] = secrets.token_hex(16)
        context.set_trailing_metadata(list(trailing.items()))
    return trailing[_REQUEST_ID]


def _answer(answer: _Answer, response: _Response, context: RayServegRPCContext) -> _Answer:
    """A message with the fields of a response; an error is the code of the call."""
    fields = msgspec.json.decode(response.body)
    if response.status == HTTPStatus.OK:
        parsed: _Answer = ParseDict(fields, answer)
        return parsed
    code = _CODES.get(response.status, grpc.StatusCode.INVALID_ARGUMENT)
    return _fail(answer, code, fields["error"], context)


def _readiness(answer: _Answer, response: _Response, context: RayServegRPCContext) -> _Answer:
    """A message that says whether something is ready; 404 and 503 mean that it is not."""
    if response.status in (HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE):
        return answer
    if response.status == HTTPStatus.OK:  # a model's has its name too
        response = response._replace(body=b'{"ready":true}')
    return _answer(answer, response, context)


def _fail(
    answer: _Answer, code: grpc.StatusCode, details: str, context: RayServegRPCContext
) -> _Answer:
    context.set_code(code)
    context.set_details(details)
    return answer
