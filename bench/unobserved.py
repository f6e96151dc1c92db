"""The service without its metrics, request log and ids: what bench.observability compares with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray import serve
from ray.serve import Application

from deployments import (
    api,
    classifier,
    grouping,
    ingress,
    metrics,
    preprocessor,
    problems,
    request_log,
)
from deployments.classifier import Classifier
from deployments.ingress import Ingress
from deployments.preprocessor import Preprocessor
from deployments.settings import Settings, parse


def build(args: dict[str, Any]) -> Application:
    """Ray Serve's application builder: the composition of deployments.app, unobserved."""
    settings = parse(Settings, args)
    behind = serve.deployment(name="Classifier")(UnobservedClassifier).bind(settings)
    before = serve.deployment(name="Preprocessor")(UnobservedPreprocessor).bind([behind], settings)
    first = serve.deployment(name="Ingress")(serve.ingress()(UnobservedIngress))
    return first.bind(before, [behind], settings)


class UnobservedClassifier(Classifier):
    def __init__(self, *args: Any) -> None:
        _stop_observing()
        super().__init__(*args)


class UnobservedPreprocessor(Preprocessor):
    def __init__(self, *args: Any) -> None:
        _stop_observing()
        super().__init__(*args)


class UnobservedIngress(Ingress):
    def __init__(self, *args: Any) -> None:
        _stop_observing()
        super().__init__(*args)


class _NoEntry(request_log.Entry):
    """One for all requests, that keeps nothing."""

    class _Nowhere(list[Any]):
        def append(self, _: Any) -> None:
            """Forget it."""

    def __init__(self) -> None:
        super().__init__("")
        self.traces = self._Nowhere()


def _stop_observing() -> None:
    """In this process, which is a replica's, from here on."""

    def nothing(*_: Any, **__: Any) -> None: ...

    async def never(*_: Any) -> None: ...

    def observe_nothing(_: str) -> Callable[[int, float], None]:
        return lambda _items, _waited_s: None

    entry = _NoEntry()
    for module in (api, classifier, grouping, metrics, preprocessor, problems):
        vars(module)["record"] = nothing
    vars(classifier)["batch_observer"] = observe_nothing
    vars(grouping)["Grouping"].__init__.__defaults__ = (observe_nothing,)
    vars(api)["begin_entry"] = lambda scope: scope.setdefault("mlc.request_log_entry", entry)
    vars(classifier)["record_predictions"] = vars(preprocessor)["format_of"] = nothing
    for module in (classifier, ingress, preprocessor):
        vars(module)["export"] = never
    setattr(request_log.RequestLog, "end", nothing)  # noqa: B010  (a method, for mypy)
    setattr(request_log.RequestLog, "keep_flushing", never)  # noqa: B010
