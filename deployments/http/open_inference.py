"""The Open Inference Protocol (V2) on the same pipeline: `/v2` and what is below it.

A call for inference has one tensor for each output, so it fails as a whole: for a photo that can't
be decoded, and when the queue has no room for all of its photos.
"""

from __future__ import annotations

import time
from asyncio import Future
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from deployments.errors import MalformedRequest, ModelUnknown, Unavailable, quote
from deployments.http import codings, tensors
from deployments.http.access import take_rest
from deployments.http.bodies import Upload
from deployments.http.inference_statistics import Statistics
from deployments.http.photo_route import ENTRY
from deployments.http.problems import STATUSES
from deployments.http.response import RawResponse
from deployments.http.served_model import ServedModel, ServedModels
from deployments.http.tensors import Inferred, Tensors
from deployments.pipeline.dispatcher import Dispatched, Dispatcher
from deployments.settings import Openness, Settings
from deployments.telemetry.request_log import Entry
from mlc_core.labels import Choice
from mlc_core.spec import EMBEDDING

SERVER, LIVE, READY = "/v2", "/v2/health/live", "/v2/health/ready"
MODEL = "/v2/models/{model}"
INFER = f"{MODEL}/infer"
# Of the protocol and its extensions, whether they are here or not.
_PATHS = (
    "/v2/health", "/v2/models", "/v2/repository", "/v2/systemsharedmemory", "/v2/cudasharedmemory",
    "/v2/trace", "/v2/logging",
)  # fmt: skip
_VERSIONED = "/versions/{version}"
JSON_BYTES = "inference-header-content-length"
_EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "statistics"]
_TRIES = 3

_decode_answer = msgspec.json.Decoder(Inferred).decode


class OpenInferenceRoutes:
    """Answers the protocol's requests.

    Args:
        describe: describes the model in service, as /v1/model answers it.
        not_ready: says why the service is not ready; None when it is.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        describe: Callable[[], Awaitable[Mapping[str, Any]]],
        not_ready: Callable[[], str | None],
        settings: Settings,
    ) -> None:
        self._dispatcher, self._not_ready = dispatcher, not_ready
        self._models = ServedModels(describe, settings.deadline_s)
        self._limits, self._upload_timeout_s = settings.limits, settings.upload_timeout_s
        self._health = settings.endpoints.health
        self._statistics = Statistics()

    def routes(self) -> list[tuple[Openness, Route]]:
        """The routes, and who may ask for each."""
        of_models = [
            ("", self._metadata, "GET"),
            ("/ready", self._model_ready, "GET"),
            ("/config", self._config, "GET"),
            ("/stats", self._stats, "GET"),
            ("/infer", self._infer, "POST"),
        ]
        return [
            (self._health, Route(SERVER, self._server)),
            (self._health, Route(LIVE, self._live)),
            (self._health, Route(READY, self._ready)),
            *(
                ("key", Route(f"{MODEL}{version}{end}", answer, methods=[method]))
                for version in ("", _VERSIONED)
                for end, answer, method in of_models
            ),
        ]

    async def _server(self, _: Request) -> Response:
        name = "multi-label-classifier"
        return JSONResponse({"name": name, "version": "1", "extensions": _EXTENSIONS})

    async def _live(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def _ready(self, _: Request) -> Response:
        return self._readiness({"ready": True})

    async def _model_ready(self, request: Request) -> Response:
        model = await self._in_service(request)
        return self._readiness({"name": model.name, "ready": True})

    def _readiness(self, ready: dict[str, Any]) -> Response:
        reason = self._not_ready()
        if reason is None:
            return JSONResponse(ready)
        not_ready = ready | {"ready": False, "error": reason}
        return JSONResponse(not_ready, HTTPStatus.SERVICE_UNAVAILABLE)

    async def _metadata(self, request: Request) -> Response:
        model = await self._in_service(request)
        outputs = [
            {"name": name, "datatype": "FP32", "shape": [-1, columns]}
            for name, columns in model.outputs.items()
        ]
        inputs = [
            {"name": name, "datatype": tensors.DATATYPES[name], "shape": [-1, *shape]}
            for name, shape in tensors.SHAPES.items()
        ]
        return JSONResponse(
            {
                "name": model.name, "versions": [model.version], "platform": model.engine,
                "inputs": inputs, "outputs": outputs,
            }
        )  # fmt: skip

    async def _config(self, request: Request) -> Response:
        model = await self._in_service(request)
        types = {"BYTES": "TYPE_STRING", "UINT8": "TYPE_UINT8"}
        return JSONResponse(
            {
                "name": model.name,
                "platform": model.engine,
                "backend": model.engine,
                "max_batch_size": self._limits.max_infer_photos,
                "input": [
                    {"name": name, "data_type": types[tensors.DATATYPES[name]], "dims": shape,
                     "optional": True}
                    for name, shape in tensors.SHAPES.items()
                ],
                "output": [
                    {"name": name, "data_type": "TYPE_FP32", "dims": [columns]}
                    for name, columns in model.outputs.items()
                ],
                "dynamic_batching": {},
            }
        )  # fmt: skip

    async def _stats(self, request: Request) -> Response:
        return JSONResponse(self._statistics.describe(await self._in_service(request)))

    async def _in_service(self, request: Request) -> ServedModel:
        """The model of the path, if it is in service now."""
        return _asked_for(request, await self._models.now())

    async def _infer(self, request: Request) -> Response:
        began, entry = time.monotonic(), request.scope[ENTRY]
        model = _asked_for(request, await self._models.known(*_identity(request)))
        try:
            body = await self._body(request)
            try:
                sent = self._read(request, body, model)
            except MalformedRequest:  # by the model as it was last
                if (newer := _asked_for(request, await self._models.now())) == model:
                    raise
                model, sent = newer, self._read(request, body, newer)
            entry.photos = len(sent.photos)
            entry.note_read()
            take_rest(request.scope, len(sent.photos))
            answering, answers, photos = await self._answers(request, model, sent)
            if answering != model:  # the outputs of a call that names none are its model's
                model, sent = answering, self._read(request, body, answering)
            body, json_bytes = tensors.write(sent, model, answers)
        except Exception:
            self._statistics.failed(model, time.monotonic() - began)
            raise
        self._statistics.succeeded(model, time.monotonic() - began, photos)
        headers = {} if json_bytes is None else {JSON_BYTES: str(json_bytes)}
        body, coding = await codings.encoded(body, request.scope["headers"])
        if coding:
            headers["content-encoding"] = coding
        kind = "application/json" if json_bytes is None else "application/octet-stream"
        return Response(body, headers=headers, media_type=kind)

    async def _body(self, request: Request) -> bytes:
        limit_bytes = self._limits.max_request_bytes
        upload = Upload(request.scope, request.receive, self._upload_timeout_s)
        body = await upload.read(limit_bytes)
        return await codings.decoded(body, request.scope["headers"], limit_bytes)

    def _read(self, request: Request, body: bytes, model: ServedModel) -> Tensors:
        return tensors.read(body, _json_bytes(request), model, self._limits)

    async def _answers(
        self, request: Request, model: ServedModel, sent: Tensors
    ) -> tuple[ServedModel, list[Inferred], list[Dispatched]]:
        """The answers to all photos, all of one model, which may be newer than `model`."""
        entry = request.scope[ENTRY]
        embedding = any(wanted.name == EMBEDDING for wanted in sent.outputs)
        choice = Choice(embedding=embedding, probabilities=True)
        for _ in range(_TRIES):
            photos = await self._dispatch(sent.photos, choice, entry)
            answers = [_decode_answer(photo.answer) for photo in photos]  # type: ignore[arg-type]
            (first, *others) = {answer.identity for answer in answers}
            if first != (model.name, model.version):
                model = _asked_for(request, await self._models.now())
            if not others and first == (model.name, model.version):
                return model, answers, photos
        raise Unavailable("the model in service changed meanwhile; try again")

    async def _dispatch(
        self, photos: Sequence[bytes], choice: Choice, entry: Entry
    ) -> list[Dispatched]:
        """What became of each photo.

        Raises:
            Exception: why a photo has no answer, with its number.
        """
        submitted = self._dispatcher.submit_all(photos, choice, entry.request_id)
        if refusal := _refusal(submitted):
            raise refusal
        answered = []
        for n, outcome in enumerate(await self._dispatcher.wait_for_all(submitted)):
            answer = outcome if isinstance(outcome, Exception) else outcome.answer
            if isinstance(answer, Exception):
                raise _of_photo(n, answer)
            answered.append(outcome)
            entry.note(outcome.stage, outcome.waited_s, outcome.trace)  # type: ignore[union-attr]
        return answered  # type: ignore[return-value]


def route_of(path: str) -> str:
    """The name of a path in metrics and logs: without the name and version of a model."""
    if not path.startswith(f"{SERVER}/models/"):
        return path
    _, *rest = path.removeprefix(f"{SERVER}/models/").split("/")
    if len(rest) > 1 and rest[0] == "versions":
        del rest[:2]
    return "/".join((MODEL, *rest))


def in_protocol(path: str, response: RawResponse) -> RawResponse:
    """A response with problem details, as clients of the protocol read it if the path is theirs."""
    if path != SERVER and not path.startswith(_PATHS):
        return response
    body = msgspec.json.encode({"error": msgspec.json.decode(response.body)["detail"]})
    replaced = {b"content-type": b"application/json", b"content-length": b"%d" % len(body)}
    headers = [(name, replaced.get(name, value)) for name, value in response.headers]
    return RawResponse(response.status, headers, body)


def _identity(request: Request) -> tuple[str, str]:
    """The name and version in the path; the version is "" if there is none."""
    return request.path_params["model"], request.path_params.get("version", "")


def _asked_for(request: Request, model: ServedModel) -> ServedModel:
    """The model in service, if it is the one that a request names.

    Raises:
        ModelUnknown: it is not.
    """
    name, version = _identity(request)
    if name != model.name:
        raise ModelUnknown(f"there is no model {quote(name)}; {model.name} is in service")
    if version not in ("", model.version):
        raise ModelUnknown(
            f"version {quote(version)} of {name} is not in service; {model.version} is"
        )
    return model


def _json_bytes(request: Request) -> int | None:
    given = [value for name, value in request.scope["headers"] if name == JSON_BYTES.encode()]
    if not given:
        return None
    if len(given) > 1 or not given[0].isdigit() or len(given[0]) > 12:
        raise MalformedRequest("Inference-Header-Content-Length must be one whole number")
    return int(given[0])


def _refusal(submitted: Sequence[Future[Dispatched]]) -> BaseException | None:
    """Why the queue has no room for all photos. Then it drops them: they would be for nothing."""
    refusals = [future.exception() for future in submitted if future.done()]
    refusal = next((each for each in refusals if each), None)
    if refusal:
        for future in submitted:
            future.cancel()
    return refusal


def _of_photo(n: int, error: Exception) -> Exception:
    """An error with the number of its photo, from 0. An unforeseen error is returned unchanged."""
    return type(error)(f"photo {n}: {error}") if type(error) in STATUSES else error
