"""What a service answers to more than it can do, and to clients that leave; its engine sleeps."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from contract import BATCH, CLASSIFY, PROBLEM
from photos import jpeg
from raw_client import RawClient
from services import PROJECT, Service, wait_until

from bench.load import open_loop
from deployments.serve_config import ServeConfig

# One photo at a time takes longer than a third of the deadline: of one that runs and two that
# wait, the last is late, however fast the machine is.
DEADLINE_S, BATCH_S = 1.0, 0.4


@pytest.fixture(scope="module")
def small_service(tmp_path_factory):
    lane = {"max_photos": 1, "max_in_flight": 1, "max_waiting": 2}
    config = ServeConfig.read(PROJECT / "serve_config.yaml").with_user_config(
        engine="emulated", emulated_batch_s=BATCH_S
    )
    config.application["args"] = {"deadline_s": DEADLINE_S, "small_lane": lane}
    with Service(config.write(tmp_path_factory.mktemp("overload") / "config.yaml")) as service:
        yield service


def flood(url: str, clients: int, calls: int) -> list[httpx.Response]:
    together = threading.Barrier(clients)

    def ask(_: int) -> list[httpx.Response]:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            together.wait()
            return [client.post(CLASSIFY, content=jpeg()) for _ in range(calls)]

    with ThreadPoolExecutor(clients) as pool:
        return [response for some in pool.map(ask, range(clients)) for response in some]


@pytest.fixture(scope="module")
def flooded(small_service):
    return flood(small_service.url, clients=24, calls=4)


def assert_problem(response: httpx.Response) -> None:
    assert response.headers["content-type"] == PROBLEM
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "detail", "request_id"}
    assert problem["status"] == response.status_code
    assert response.headers.get_list("x-request-id") == [problem["request_id"]]


def test_one_photo_too_many_is_refused_and_told_when_to_retry(flooded):
    assert {response.status_code for response in flooded} <= {200, 503, 504}
    assert any(response.status_code == 200 for response in flooded)
    refused = [response for response in flooded if response.status_code == 503]
    assert refused
    for response in refused:
        assert_problem(response)
        assert int(response.headers["retry-after"]) >= 1


def test_a_photo_past_its_deadline_is_answered_504(flooded):
    late = [response for response in flooded if response.status_code == 504]
    assert late, [response.status_code for response in flooded]
    for response in late:
        assert_problem(response)
        assert response.elapsed.total_seconds() >= DEADLINE_S


def test_it_stays_alive_and_ready_under_overload(small_service):
    over = threading.Event()

    def keep_asking(_: int) -> set[int]:
        statuses = set()
        with httpx.Client(base_url=small_service.url, timeout=60, trust_env=False) as client:
            while not over.is_set():
                statuses.add(client.post(CLASSIFY, content=jpeg()).status_code)
        return statuses

    with ThreadPoolExecutor(8) as pool, httpx.Client(base_url=small_service.url) as client:
        asking = pool.map(keep_asking, range(8))
        try:
            for _ in range(40):
                assert client.get("/healthz", timeout=5).status_code == 200
                assert client.get("/readyz", timeout=5).status_code == 200
        finally:
            over.set()
        assert 503 in set().union(*asking)


def test_it_answers_again_when_the_flood_is_over(small_service):
    flood(small_service.url, clients=16, calls=3)
    until = time.monotonic() + 10 * DEADLINE_S
    while (status := flood(small_service.url, 1, 1)[0].status_code) != 200:
        assert time.monotonic() < until, status


def test_a_client_that_leaves_is_in_the_request_log(small_service):
    """Alone and with a batch request; the engine sleeps for longer than they stay."""

    def lines():
        files = small_service.logs.glob("requests_*_Ingress_*.log")
        return [line for file in files for line in file.read_text().splitlines()]

    for path, name in ((CLASSIFY, "impatient"), (BATCH, "impatient-batch")):
        client = RawClient(small_service.url, jpeg(), path, request_id=name)
        client.hang_up()
        own = f'"request_id":"{name}"'
        wait_until(lambda: any(own in line for line in lines()), f"a line of {name}", 10)  # noqa: B023
        (line,) = [line for line in lines() if own in line]
        assert '"status":499' in line
        assert '"problem":"client-left"' in line


@pytest.mark.slow
def test_accepted_photos_wait_for_about_as_long_as_the_limit_says(tmp_path):
    """Three times as many come as the engine can take; without a limit, half would wait for 5 s."""
    config = ServeConfig.read(PROJECT / "serve_config.yaml").with_user_config(
        engine="emulated", emulated_image_s=0.01
    )
    config.application["args"] = {"max_wait_s": 0.25}  # four times as long in a burst
    with Service(config.write(tmp_path / "config.yaml")) as service:
        load = open_loop(service.url, {"": ([jpeg()], 300.0)}, seconds=5)[""]
    assert load.answers
    assert load.refusals
    assert load.p50_s < 2
    assert (load.improper, load.lost, load.unanswered, load.others) == (0, 0, 0, {})
