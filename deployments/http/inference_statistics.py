"""What the statistics extension of the Open Inference Protocol counts, in one ingress."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from deployments.http.served_model import ServedModel
from deployments.pipeline.dispatcher import Dispatched

# duration of the protocol -> the stages of a trace that it is made of
_STAGES = {
    "queue": ("images_queue",),
    "compute_input": ("decode",),
    "compute_infer": ("inference",),
    "compute_output": ("encode",),
}


class _Durations:
    """The calls of one version of a model, and where their time went."""

    def __init__(self) -> None:
        self.inferences = self.executions = self.last_ms = 0
        self.counts, self.seconds = defaultdict[str, int](int), defaultdict[str, float](float)

    def add(self, name: str, seconds: float) -> None:
        self.counts[name] += 1
        self.seconds[name] += seconds

    def of(self, name: str) -> dict[str, int]:
        return {"count": self.counts[name], "ns": round(self.seconds[name] * 1e9)}


class Statistics:
    """Counts the calls for inference that this ingress answered."""

    def __init__(self) -> None:
        self._durations = defaultdict[tuple[str, str], _Durations](_Durations)

    def succeeded(self, model: ServedModel, seconds: float, photos: Sequence[Dispatched]) -> None:
        """Count a call.

        Args:
            photos: what became of its photos.
        """
        durations = self._of(model)
        groups = {id(photo.trace): photo for photo in photos}.values()
        durations.inferences += len(photos)
        durations.executions += len(groups)
        durations.last_ms = round(time.time() * 1e3)
        durations.add("success", seconds)
        for name, stages in _STAGES.items():
            spent = [
                sum(photo.trace.stages_s.get(stage, 0.0) for stage in stages)
                + (photo.waited_s if name == "queue" else 0.0)
                for photo in groups
            ]
            durations.add(name, max(spent, default=0.0))

    def failed(self, model: ServedModel, seconds: float) -> None:
        """Count a call that got an error."""
        self._of(model).add("fail", seconds)

    def describe(self, model: ServedModel) -> dict[str, Any]:
        """What `…/stats` answers."""
        durations = self._of(model)
        names = ("success", "fail", *_STAGES, "cache_hit", "cache_miss")
        return {
            "model_stats": [
                {
                    "name": model.name,
                    "version": model.version,
                    "last_inference": durations.last_ms,
                    "inference_count": durations.inferences,
                    "execution_count": durations.executions,
                    "inference_stats": {name: durations.of(name) for name in names},
                    "batch_stats": [],
                }
            ]
        }

    def _of(self, model: ServedModel) -> _Durations:
        return self._durations[model.name, model.version]
