"""A model per label over HTTP: four classifiers keep the contract of the one model."""

import httpx
import pytest
from contract import BATCH, CLASSIFY, assert_problem, same_labels
from photos import TRUNCATED, jpeg
from services import PROJECT, Service

from deployments.serve_config import ServeConfig
from mlc_core.labels import Choice
from mlc_core.spec import HEADS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def four(one_head_models, tmp_path_factory):
    config = ServeConfig.read(PROJECT / "configs/four_models.yaml")
    for classifier, model in zip(config.classifiers(), one_head_models.values(), strict=True):
        classifier["user_config"]["model"] = str(model)
    file = config.write(tmp_path_factory.mktemp("four") / "config.yaml")
    with (
        Service(file) as service,
        httpx.Client(base_url=service.url, timeout=30, trust_env=False) as client,
    ):
        yield client


def test_four_models_answer_as_one_does(four, answer_here):
    for seed in range(20):
        photo = jpeg(seed)
        answer = four.post(CLASSIFY, content=photo)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == {"name": "+".join(HEADS), "version": "1+1+1+1"}
        own = Choice(consistent=False)  # a model of one head knows no taxonomy
        assert same_labels(answer.json(), answer_here(photo, own))


def test_a_batch_keeps_its_order_and_its_faults(four, answer_here):
    photos = [jpeg(1), TRUNCATED, jpeg(2)]
    answer = four.post(BATCH, files=[("images", photo) for photo in photos])
    first, fault, last = answer.json()["results"]
    own = Choice(consistent=False)
    assert same_labels(first, answer_here(photos[0], own))
    assert fault["status"] == 422
    assert same_labels(last, answer_here(photos[2], own))


def test_a_photo_that_cant_be_decoded_is_the_same_problem(four):
    assert_problem(four.post(CLASSIFY, content=TRUNCATED), 422)


def test_the_models_are_described_as_one(four):
    model = four.get("/v1/model").json()
    assert list(model["heads"]) == list(HEADS)
    assert list(model["metrics"]) == list(HEADS)
