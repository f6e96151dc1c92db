"""A recorder whose observations tests can look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from deployments.telemetry.catalogue import Metric
from deployments.telemetry.recorder import Recorder


class Recording(Recorder):
    """Keeps what is recorded."""

    async def export(self, set_gauges: Callable[[], None] = lambda: None) -> None:
        """Hand over nothing."""

    def values(self, metric: Metric, **labels: str) -> list[float]:
        return [value for value, each in self._of(metric) if labels.items() <= each.items()]

    def labels(self, metric: Metric) -> list[dict[str, str]]:
        return [each for _, each in self._of(metric)]

    def _of(self, metric: Metric) -> Iterator[tuple[float, dict[str, str]]]:
        return ((value, each) for recorded, value, each in self._recorded if recorded is metric)
