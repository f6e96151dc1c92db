"""Claims about settings: a wrong one is named, with what was expected."""

from pathlib import Path

import pytest
import yaml

from deployments.settings import ClassifierConfig, Settings, parse

CONFIG = yaml.safe_load((Path(__file__).parents[2] / "serve_config.yaml").read_text())


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"deadline": 3}, ["deadline = 3", "expected one of", "deadline_s"]),
        ({"deadline_s": "3"}, ["deadline_s = '3'", "number"]),
        ({"limits": {"photo_bytes": -1}}, ["limits.photo_bytes = -1", "greater than 0"]),
        ({"limits": {"photos": 1}}, ["limits.photos", "photo_bytes"]),
        ([], ["Settings = []"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_expected(values, named):
    with pytest.raises(ValueError, match=r"serve_config\.yaml") as error:
        parse(Settings, values)
    for text in named:
        assert text in str(error.value)


def test_an_unknown_engine_names_those_there_are():
    with pytest.raises(ValueError, match="'onnxruntime' or 'tensorflow'"):
        parse(ClassifierConfig, {"model": "m", "engine": "abacus"})


def test_serve_config_yaml_is_valid_and_states_every_deployment():
    (application,) = CONFIG["applications"]
    parse(Settings, application["args"])
    deployments = {d["name"]: d for d in application["deployments"]}
    assert set(deployments) == {"Ingress", "Preprocessor", "Classifier"}
    parse(ClassifierConfig, deployments["Classifier"]["user_config"])


def test_a_group_fits_a_message_between_replicas():
    grpc_default_bytes = 4 * 2**20
    settings = parse(Settings, CONFIG["applications"][0]["args"])
    for lane in (settings.small_photos, settings.large_photos):
        assert lane.size_bytes < 0.9 * grpc_default_bytes
