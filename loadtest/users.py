"""The clients: shoppers in a closed loop, or arrivals in an open loop. Both check the answers."""

from __future__ import annotations

import time
import uuid
from typing import Any, ClassVar

import gevent
import numpy as np
from locust import FastHttpUser, between, task
from locust.exception import StopUser

from loadtest.findings import of
from loadtest.levels import arrivals
from loadtest.traffic import (
    FILTER,
    FILTERED,
    MANY,
    REFUSED,
    Traffic,
    fault_of,
    fault_of_search,
    photos,
    version_of,
)

ANSWERED_WITHIN_S = 30.0
_IN_FLIGHT_MOST = 2000  # of an open loop, in one process; arrivals beyond that are dropped


class _Client(FastHttpUser):
    abstract = True
    connection_timeout = network_timeout = ANSWERED_WITHIN_S
    concurrency = _IN_FLIGHT_MOST
    heads: ClassVar[dict[str, dict[str, list[str]]]] = {}  # version -> head -> classes

    def on_start(self) -> None:
        options: Any = self.environment.parsed_options
        seed = uuid.uuid4().int % 2**32
        scenario: Any = self.environment.shape_class
        self.traffic = Traffic(photos(options.photos), scenario.bad_share, seed)
        self.chance = np.random.default_rng(seed)

    def ask(self, intended: float | None = None) -> None:
        """Send one photo, or, with the chance MANY.share, a batch request of several.

        Args:
            intended: when it should have been sent, on `time.perf_counter`; latency counts from it.
        """
        scenario: Any = self.environment.shape_class
        many = not scenario.searches and self.chance.random() < MANY.share
        sent = [self.traffic.next_photo() for _ in range(MANY.photos if many else 1)]
        base, prefix = scenario.target(self.environment)
        path = "/v1/classify/batch" if many else "/v1/classify"
        query = ""
        if scenario.searches:
            path, query = "/v1/similar", "?labels=true"
            if self.chance.random() < FILTERED:
                query += f"&filter={FILTER}"
        request_id = uuid.uuid4().hex
        body: dict[str, Any] = {"data": sent[0][0]}
        headers = {"X-Request-ID": request_id}
        if many:
            body = {"files": [("images", (f"{n}", photo)) for n, (photo, _) in enumerate(sent)]}
        else:
            headers["Content-Type"] = "application/octet-stream"
        with self.client.post(
            base + path + query,
            name=f"{prefix}{path}",
            headers=headers,
            catch_response=True,
            **body,
        ) as answer:
            if intended is not None:
                answer.request_meta["response_time"] = 1e3 * (time.perf_counter() - intended)
            findings = of(self.environment)
            good = [good for _, good in sent]
            version = version_of(answer.content)
            if version:
                findings.versions[version] += 1
            fault = fault_of(
                answer.status_code, answer.content, good, self._heads(base, version), many=many
            )
            if fault is None and query:
                fault = fault_of_search(answer.content, filtered="&" in query)
            if fault is None and answer.headers.get("x-request-id") != request_id:
                fault = "the answer has another request's id"
            if fault and fault.startswith(REFUSED):
                findings.counts["refused"] += 1
            if fault:
                answer.failure(fault)
            else:
                findings.counts["photos"] += sum(good)
                answer.success()

    def _heads(self, base: str, version: str) -> dict[str, list[str]]:
        """The classes of a model version; {} until GET /v1/model has described that version."""
        if version and version not in self.heads:
            with self.client.get(f"{base}/v1/model", name="/v1/model", catch_response=True) as told:
                told.success()
                model = told.json() if told.status_code == 200 else {}
            if model.get("version") == version:  # in a roll-out, another version may answer
                self.heads[version] = model["heads"]
        return self.heads.get(version, {})


class Shopper(_Client):
    """A closed loop: sends a request, waits for the answer, checks it, sends the next one."""

    wait_time = between(0.05, 0.15)

    @task
    def shop(self) -> None:
        self.ask()


class Arrivals(_Client):
    """An open loop: sends at the times of a Poisson process, whether or not answers arrived."""

    @task
    def arrive(self) -> None:
        options: Any = self.environment.parsed_options
        findings = of(self.environment)
        scenario: Any = self.environment.shape_class
        start = time.perf_counter()
        in_flight: set[Any] = set()
        peak = options.peak / options.senders
        for at_s in arrivals(scenario.level, peak, options.seconds, self.chance):
            at = start + at_s
            gevent.sleep(max(0.0, at - time.perf_counter()))
            findings.counts["arrivals"] += 1
            findings.late[round(1e3 * (time.perf_counter() - at))] += 1
            if len(in_flight) >= _IN_FLIGHT_MOST:
                findings.counts["dropped"] += 1
                continue
            sent = gevent.spawn(self.ask, at)
            in_flight.add(sent)
            sent.link(in_flight.discard)
        gevent.joinall(list(in_flight), timeout=ANSWERED_WITHIN_S)
        raise StopUser
