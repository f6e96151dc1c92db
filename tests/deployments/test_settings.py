"""Claims about settings: a wrong one is named, with what was expected."""

import pytest
import yaml

from deployments.settings import PROJECT, ClassifierConfig, Settings, check, parse

CONFIG = yaml.safe_load((PROJECT / "serve_config.yaml").read_text())


@pytest.fixture
def four_models():
    return yaml.safe_load((PROJECT / "configs/four_models.yaml").read_text())


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
    with pytest.raises(ValueError, match="'onnxruntime', 'tensorflow' or 'emulated'"):
        parse(ClassifierConfig, {"model": "m", "engine": "abacus"})


def test_serve_config_yaml_is_valid_and_states_every_deployment():
    (application,) = CONFIG["applications"]
    parse(Settings, application["args"])
    deployments = {d["name"]: d for d in application["deployments"]}
    assert set(deployments) == {"Ingress", "Preprocessor", "Classifier"}
    parse(ClassifierConfig, deployments["Classifier"]["user_config"])


def test_the_four_model_way_differs_in_its_classifiers_alone(four_models):
    (one,), (four,) = CONFIG["applications"], four_models["applications"]
    classifiers = four["args"].pop("classifiers")
    parse(Settings, four["args"] | {"classifiers": classifiers})
    deployments = {d["name"]: d for d in four.pop("deployments")}
    shared = [d for d in one["deployments"] if d["name"] != "Classifier"]
    assert [deployments.pop(d["name"]) for d in shared] == shared
    assert list(deployments) == classifiers
    (classifier,) = (d for d in one["deployments"] if d["name"] == "Classifier")
    own = {"name", "ray_actor_options", "user_config"}
    for deployment in deployments.values():
        config = parse(ClassifierConfig, deployment["user_config"])
        assert config == parse(
            ClassifierConfig, classifier["user_config"] | {"model": config.model}
        )
        assert {k: v for k, v in deployment.items() if k not in own} == {
            k: v for k, v in classifier.items() if k not in own
        }
    assert four_models | {"applications": []} == CONFIG | {"applications": []}
    assert four == {k: v for k, v in one.items() if k != "deployments"}


def test_a_classifier_s_user_config_is_checked_whatever_its_name(four_models):
    (application,) = four_models["applications"]
    color = {"name": "Color", "user_config": {"modle": "m"}}
    with pytest.raises(ValueError, match="modle"):
        check({"applications": [application | {"deployments": [color]}]})


def test_a_group_fits_a_message_between_replicas():
    grpc_default_bytes = 4 * 2**20
    settings = parse(Settings, CONFIG["applications"][0]["args"])
    for lane in (settings.small_photos, settings.large_photos):
        assert lane.size_bytes < 0.9 * grpc_default_bytes
