"""Connects the deployments as the Serve config asks: ingress → preprocessor → classifiers.

With a catalogue, the ingress has similar products beside them.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from ray import serve
from ray.serve import Application

from deployments.http import haproxy
from deployments.http.ingress import Ingress
from deployments.pipeline.classifier import Classifier
from deployments.pipeline.preprocessor import Preprocessor
from deployments.pipeline.routing import ROUTER
from deployments.pipeline.similar_products import SimilarProducts
from deployments.settings import Settings, parse

logger = logging.getLogger("ray.serve")

FAST_FLAGS = ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED")


def build(args: dict[str, Any]) -> Application:
    """Ray Serve's application builder.

    Args:
        args: `args` of the application in serve_config.yaml; see settings.Settings.

    Raises:
        ValueError: names every wrong key, its value and what was expected.
    """
    settings = parse(Settings, args)
    missing = [flag for flag in FAST_FLAGS if os.environ.get(flag) != "1"]
    if missing:
        logger.warning(
            "%s not set to 1 where the cluster was started: it serves, several times slower",
            " and ".join(missing),
        )
    if not os.environ.get(haproxy.BINARY, "").endswith(haproxy.COMMAND):
        logger.warning(
            "%s does not name %s where the cluster was started: refusals under overload cost more, "
            "and errors of HAProxy are no problem details",
            haproxy.BINARY, haproxy.COMMAND,
        )  # fmt: skip
    classifiers = [
        serve.deployment(name=name, request_router_config=ROUTER)(Classifier).bind(settings)
        for name in settings.classifiers
    ]
    preprocessor = serve.deployment(request_router_config=ROUTER)(Preprocessor).bind(
        classifiers, settings
    )
    similar = serve.deployment()(SimilarProducts).bind(settings) if settings.catalog else None
    return serve.deployment()(serve.ingress()(Ingress)).bind(
        preprocessor, classifiers, settings, similar
    )
