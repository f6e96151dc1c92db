"""What the service is measured against: the obvious composition, a bare call, a bare loop."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from deployments.pipeline.calls import connect
from deployments.settings import PROJECT
from mlc_core.artifact import load_artifact
from mlc_core.engines.loading import load_engine
from mlc_core.labels import Choice, Labeller, parse_answer
from mlc_core.photo import decode

MODEL = PROJECT / "models/fashion/2"


@serve.deployment
class ObviousClassifier:
    """@serve.batch in front of the engine, as in Ray Serve's tutorials."""

    def __init__(self) -> None:
        artifact = load_artifact(MODEL)
        self._engine = load_engine("tensorflow", artifact)
        self._labeller = Labeller(artifact.spec)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.01)
    async def __call__(self, images: list[NDArray[np.uint8]]) -> list[dict[str, Any]]:
        answers = self._labeller.answers(
            self._engine.infer(np.stack(images)), [Choice()] * len(images)
        )
        return [parse_answer(answer) for answer in answers]


@serve.deployment
class ObviousPreprocessor:
    def __init__(self) -> None:
        self._size = load_artifact(MODEL).spec.image

    async def __call__(self, photo: bytes) -> Any:
        return decode(photo, self._size)


@serve.deployment
class ObviousIngress:
    """Makes one handle call per photo to each of the other deployments."""

    def __init__(
        self, preprocessor: DeploymentHandle[Any], classifier: DeploymentHandle[Any]
    ) -> None:
        self._preprocessor, self._classifier = preprocessor, classifier
        size = load_artifact(MODEL).spec.image
        self._blank = np.zeros((size.height_px, size.width_px, 3), np.uint8)

    async def __call__(self, request: Request) -> Response:
        if request.url.path == "/readyz":
            return JSONResponse(await self._classifier.remote(self._blank))
        image = self._preprocessor.remote(await request.body())
        return JSONResponse(await self._classifier.remote(image))


def obvious(_: dict[str, Any]) -> Application:
    """Ray Serve's application builder of the obvious composition."""
    # Ray's default is one core per replica. Three replicas would not fit on two cores.
    share = {"max_ongoing_requests": 100, "ray_actor_options": {"num_cpus": 0.5}}
    classifier = ObviousClassifier.options(**share).bind()  # type: ignore[attr-defined]
    preprocessor = ObviousPreprocessor.options(**share).bind()  # type: ignore[attr-defined]
    return ObviousIngress.options(**share).bind(preprocessor, classifier)  # type: ignore[attr-defined,no-any-return]


@serve.deployment
class Callee:
    async def empty(self) -> bytes:
        return b""


@serve.deployment
class Caller:
    """Times empty calls, one after the other, when asked over HTTP."""

    def __init__(self, callee: DeploymentHandle[Any]) -> None:
        self._empty = connect(callee, "empty")

    async def __call__(self, request: Request) -> Response:
        if request.url.path == "/readyz":
            return PlainTextResponse("ready")
        took_s, cpu_s = [], time.process_time()
        for _ in range(500):
            began = time.perf_counter()
            await self._empty.remote()
            took_s.append(time.perf_counter() - began)
        cpu_s = time.process_time() - cpu_s
        return JSONResponse({"median_s": float(np.median(took_s)), "cpu_s": cpu_s / len(took_s)})


def empty_calls(_: dict[str, Any]) -> Application:
    """Ray Serve's application builder of two deployments with nothing to do."""
    return Caller.bind(Callee.bind())  # type: ignore[attr-defined,no-any-return]


def write_config(folder: Path, builder: str) -> Path:
    """A Serve config file for one of the builders above."""
    path = folder / f"{builder}.json"  # JSON is YAML
    application = {"name": builder, "route_prefix": "/", "import_path": f"bench.baseline:{builder}"}
    path.write_text(json.dumps({"http_options": {}, "applications": [application]}))
    return path


def bare_loop(photos: Sequence[bytes], seconds: float, batch: int = 32) -> dict[str, float]:
    """Decode and infer in one thread, without a service.

    Returns:
        decode_s and infer_s, CPU seconds per photo; rate, photos per second.
    """
    artifact = load_artifact(MODEL)
    engine = load_engine("onnxruntime", artifact, precision="int8")  # as serve_config.yaml has it
    size = artifact.spec.image
    decode_s = infer_s = 0.0
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.process_time()
        images = np.stack([decode(photos[(count + n) % len(photos)], size) for n in range(batch)])
        decoded = time.process_time()
        engine.infer(images)
        decode_s += decoded - start
        infer_s += time.process_time() - decoded
        count += batch
    wall_s = time.perf_counter() - began
    return {"decode_s": decode_s / count, "infer_s": infer_s / count, "rate": count / wall_s}
