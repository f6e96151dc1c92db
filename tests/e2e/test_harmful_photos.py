"""A photo that crashes its decoder: other photos are still answered."""

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from crashing import MARK
from services import PROJECT, Service

from bench.servers import process_name
from deployments.serve_config import ServeConfig
from launcher.processes import processes
from samples.photos import small_photos


@pytest.fixture(scope="module")
def crashing_service(tmp_path_factory):
    config = ServeConfig.read(PROJECT / "serve_config.yaml").merge(
        {"applications": [{"name": "mlc", "import_path": "crashing:build"}]}
    )
    file = config.write(tmp_path_factory.mktemp("crashing") / "config.yaml")
    path = f"{PROJECT / 'tests/support'}:{PROJECT}"
    with Service(file, env={"PYTHONPATH": path}) as service:
        yield service


def preprocessors(service):
    return {p.pid for p in processes(service.port) if process_name(p) == "Preprocessor"}


def test_it_is_refused_after_two_replicas_and_the_others_are_answered(crashing_service):
    photo = small_photos(1)[0]
    seen, over = preprocessors(crashing_service), threading.Event()

    def count_replicas():
        while not over.wait(0.05):
            seen.update(preprocessors(crashing_service))

    def ask(data):
        url = f"{crashing_service.url}/v1/classify"
        return httpx.post(url, content=data, timeout=60, trust_env=False)

    with ThreadPoolExecutor(16) as clients:
        counting = clients.submit(count_replicas)
        try:
            harmful = clients.submit(ask, photo + MARK)
            others = []
            while not harmful.done():
                others += list(clients.map(ask, [photo] * 8))
            again = list(clients.map(ask, [photo + MARK, photo] * 4))
        finally:
            over.set()
        counting.result()
    assert harmful.result().status_code == 422
    assert harmful.result().json()["type"] == "urn:problem-type:mlc:harmful-photo"
    assert [response.status_code for response in again] == [422, 200] * 4
    assert {response.status_code for response in others} == {200}
    assert len(seen) == 3
