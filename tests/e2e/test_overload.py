"""What a service answers when it is asked for more than it can do; its bounds are tiny here."""

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from photos import jpeg, slow_photo
from services import Service

DEADLINE_S = 0.5


@pytest.fixture(scope="module")
def small_service(tmp_path_factory, write_config_to):
    path = tmp_path_factory.mktemp("overload")
    lane = {"photos": 1, "in_flight": 1, "waiting": 2}
    config = write_config_to(path, {"deadline_s": DEADLINE_S, "small_photos": lane})
    with Service(path / "output", config) as service:
        yield service.wait_until_ready()
        service.stop()


def flood(url: str, photo: bytes, clients: int, calls: int) -> list[httpx.Response]:
    together = threading.Barrier(clients)

    def ask(_: int) -> list[httpx.Response]:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            together.wait()
            return [client.post("/v1/classify", content=photo) for _ in range(calls)]

    with ThreadPoolExecutor(clients) as pool:
        return [response for some in pool.map(ask, range(clients)) for response in some]


def assert_problem(response: httpx.Response) -> None:
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "detail", "request_id"}
    assert problem["status"] == response.status_code
    assert response.headers.get_list("x-request-id") == [problem["request_id"]]


def test_one_photo_too_many_is_told_when_to_come_back(small_service):
    responses = flood(small_service.url, jpeg(), clients=32, calls=5)
    assert {response.status_code for response in responses} <= {200, 503, 504}
    assert any(response.status_code == 200 for response in responses)
    refused = [response for response in responses if response.status_code == 503]
    assert refused
    for response in refused:
        assert_problem(response)
        assert int(response.headers["retry-after"]) >= 1


def test_an_answer_past_its_deadline_is_given_up(small_service):
    # As large photos, of which many may wait: more than a fast machine decodes within the deadline.
    photo = slow_photo() + bytes(2**16)
    responses = flood(small_service.url, photo, clients=32, calls=1)
    late = [response for response in responses if response.status_code == 504]
    assert late, [response.status_code for response in responses]
    for response in late:
        assert_problem(response)
        assert response.elapsed.total_seconds() < DEADLINE_S + 5  # not when decoded at last


def test_it_stays_alive_and_ready_under_overload(small_service):
    over = threading.Event()

    def keep_asking(_: int) -> set[int]:
        statuses = set()
        with httpx.Client(base_url=small_service.url, timeout=60, trust_env=False) as client:
            while not over.is_set():
                statuses.add(client.post("/v1/classify", content=slow_photo_file).status_code)
        return statuses

    slow_photo_file = slow_photo()
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
    flood(small_service.url, jpeg(), clients=16, calls=3)
    (response,) = flood(small_service.url, jpeg(), clients=1, calls=1)
    assert response.status_code == 200
