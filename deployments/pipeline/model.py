"""One model in a classifier replica: artifact, engine, labels, and the sums of its predictions."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from deployments.messages import Answer
from deployments.settings import ClassifierConfig, parse
from deployments.telemetry.predictions import PredictionSums
from deployments.telemetry.recorder import Recorder
from mlc_core.artifact import load_artifact
from mlc_core.engines.engine import Images
from mlc_core.engines.loading import load_engine
from mlc_core.errors import ArtifactError
from mlc_core.labels import Choice, Labeller
from mlc_core.profiles import HIDDEN

logger = logging.getLogger("ray.serve")


class Model:
    """Loads, checks and warms up the model that a `user_config` names.

    Args:
        replaces: the model in service, whose heads clients rely on.

    Raises:
        ValueError: a wrong key or value, named.
        ArtifactError: the artifact is missing, altered or inconsistent, or lacks a head.
        ProfileError: a profile is wrong, or does not fit the model.
    """

    def __init__(
        self, user_config: dict[str, Any], recorder: Recorder, replaces: Model | None = None
    ) -> None:
        began = time.monotonic()
        config = self.config = parse(ClassifierConfig, user_config, "user_config")
        self.artifact = load_artifact(config.model_path)
        spec = self.spec = self.artifact.spec
        needed = (
            config.heads if config.heads is not None else replaces.spec.heads if replaces else ()
        )
        if missing := [head for head in needed if head not in spec.heads]:
            raise ArtifactError(
                f"the model at {config.model_path} lacks {', '.join(missing)}, which clients get "
                "today; to drop a head, list those that stay as `heads` in user_config"
            )
        emulated_s = config.emulated_batch_s, config.emulated_image_s
        self._engine = load_engine(
            config.engine, self.artifact, config.threads, config.precision, emulated_s
        )
        self.profiles = config.read_profiles(spec)
        self._labeller = Labeller(spec, self.profiles)
        self.predictions = PredictionSums(spec, recorder)
        loaded = time.monotonic()
        self._engine.infer(np.zeros((1, spec.image.height_px, spec.image.width_px, 3), np.uint8))
        self.load_s, self.warm_up_s = loaded - began, time.monotonic() - loaded
        logger.info(
            "model %s %s loaded with %s, %s, in %.2f s",
            spec.name, spec.version, config.engine, config.precision, self.load_s + self.warm_up_s,
        )  # fmt: skip

    @property
    def identity(self) -> str:
        """Name and version, as traces and logs have it."""
        return f"{self.spec.name}/{self.spec.version}"

    @property
    def labels(self) -> dict[str, str]:
        """Of catalogue.MODEL_INFO."""
        return {
            "model": self.spec.name,
            "version": self.spec.version,
            "engine": self.config.engine,
            "precision": self.config.precision,
        }

    def describe(self) -> dict[str, Any]:
        """What GET /v1/model answers."""
        spec = self.spec
        return {
            "name": spec.name,
            "version": spec.version,
            "engine": self.config.engine,
            "precision": self.config.precision,
            "image": {"height_px": spec.image.height_px, "width_px": spec.image.width_px},
            "heads": {head: list(classes) for head, classes in spec.heads.items()},
            "embedding": None if spec.embedding is None else asdict(spec.embedding),
            "thresholds": {head: dict(each) for head, each in spec.thresholds.items()},
            "taxonomy": {"heads": spec.hierarchy, "paths": spec.taxonomy}
            if spec.taxonomy
            else None,
            "profiles": {
                each.name: {
                    head: [word for word in words if word != HIDDEN]
                    for head, words in each.spec.heads.items()
                }
                for each in self.profiles
            },
            "metrics": dict(self.artifact.metrics),
        }

    def answer(
        self, images: Images, choices: Sequence[Choice], traffic: Sequence[bool]
    ) -> tuple[list[Answer], dict[str, float]]:
        """Infer a batch and write its answers.

        Args:
            images: uint8 (N, height_px, width_px, 3) of the spec's size.
            choices: N of them.
            traffic: whether each of the N is a client's; the probe's does not count.

        Returns:
            N answers, and the seconds of each stage.
        """
        began = time.monotonic()
        probabilities = self._engine.infer(images)
        inferred = time.monotonic()
        named = self._labeller.name(probabilities, choices)
        answers: list[Answer] = [
            self._labeller.refusal(choice) or answer
            for choice, answer in zip(
                choices,
                self._labeller.answers(probabilities, choices, named, images),
                strict=True,
            )
        ]
        stages_s = {"inference": inferred - began, "encode": time.monotonic() - inferred}
        if not all(traffic):
            counted = [n for n, is_traffic in enumerate(traffic) if is_traffic]
            probabilities = {head: rows[counted] for head, rows in probabilities.items()}
            named = {head: rows[counted] for head, rows in named.items()}
        if any(traffic):
            self.predictions.add(probabilities, named)
        return answers, stages_s
