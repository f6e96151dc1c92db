"""Claims about Serve configs: read with clear errors, checked, merged, and those that ship."""

from datetime import UTC, datetime, timedelta

import pytest

from deployments.serve_config import ServeConfig, merge
from deployments.settings import PROJECT
from mlc_core.keys import add_key

SHIPPED = ServeConfig.read(PROJECT / "serve_config.yaml")
FOUR_MODELS = ServeConfig.read(PROJECT / "configs/four_models.yaml")


@pytest.mark.parametrize("file", ["serve_config.yaml", *map(str, PROJECT.glob("configs/*.yaml"))])
def test_every_config_of_the_project_is_valid(file):
    ServeConfig.read(PROJECT / file).check()


def test_serve_config_yaml_states_every_deployment():
    assert list(SHIPPED.deployments) == ["Ingress", "Preprocessor", "Classifier"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "can't be read: No such file"),
        ("", "needs `applications`"),
        ("applications: []", "needs `applications`"),
        ("applications: [{name: x}]", "with an `import_path`"),
        ("just text", "needs `applications`"),
        ("a: [", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
    ],
)
def test_a_file_that_is_no_serve_config_is_named_with_the_reason(tmp_path, text, named):
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match="mine") as error:
        ServeConfig.read(file)
    assert named in str(error.value)


def test_a_config_of_a_model_per_label_differs_in_its_classifiers_alone():
    names = FOUR_MODELS.settings.classifiers
    assert FOUR_MODELS.settings == SHIPPED.settings.model_copy(update={"classifiers": names})
    for name in ("Ingress", "Preprocessor"):
        assert FOUR_MODELS.deployments[name] == SHIPPED.deployments[name]
    assert list(FOUR_MODELS.deployments)[2:] == names
    shipped = SHIPPED.deployments["Classifier"]
    for classifier in FOUR_MODELS.classifiers():
        own = {key: classifier["user_config"][key] for key in ("model", "heads")}
        assert classifier["user_config"] == shipped["user_config"] | own
        assert own["model"] == f"models/compared/{own['heads'][0]}/1"
        differs = {key for key in shipped if classifier[key] != shipped[key]}
        assert differs <= {"name", "ray_actor_options", "user_config"}
    for key in ("http_options", "logging_config"):
        one, four = dict(SHIPPED.fields[key]), dict(FOUR_MODELS.fields[key])
        assert one == four


def test_the_user_config_of_every_classifier_is_checked_whatever_its_name():
    config = FOUR_MODELS.merge(
        {"applications": [{"name": "mlc", "deployments": [
            {"name": "Color", "user_config": {"modle": "m"}}]}]}
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"four_models\.yaml: user_config of Color: modle = 'm'"):
        config.check()


def test_a_classifier_without_an_entry_is_named():
    config = SHIPPED.merge({"applications": [{"name": "mlc", "args": {"classifiers": ["Other"]}}]})
    with pytest.raises(ValueError, match="names Other, which is not among `deployments`: Ingress"):
        config.check()


def test_edits_leave_the_original_as_it_is():
    before = SHIPPED.to_yaml()
    edited = SHIPPED.with_user_config(precision="float32").listening("0.0.0.0", 9)
    assert edited.deployments["Classifier"]["user_config"]["precision"] == "float32"
    assert edited.deployments["Classifier"]["user_config"]["model"] == "models/fashion/2"
    assert edited.fields["http_options"] == {"host": "0.0.0.0", "port": 9, "request_timeout_s": 60}
    assert SHIPPED.to_yaml() == before


def test_what_is_written_is_what_is_read(tmp_path):
    assert ServeConfig.read(SHIPPED.write(tmp_path / "copy.yaml")).fields == SHIPPED.fields


def test_a_difference_is_merged_by_key_and_by_name():
    config = {"a": {"b": 1, "c": 2}, "list": [1], "named": [{"name": "x", "y": 1}, {"name": "z"}]}
    difference = {"a": {"c": 3}, "list": [2], "named": [{"name": "x", "y": {"new": 1}}]}
    assert merge(config, difference) == {
        "a": {"b": 1, "c": 3},
        "list": [2],
        "named": [{"name": "x", "y": {"new": 1}}, {"name": "z"}],
    }
    with pytest.raises(ValueError, match="no such name: Clasifier"):
        merge([{"name": "Classifier"}], [{"name": "Clasifier"}])


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("Ingress", "requests_per_replica"),
        ("Preprocessor", "groups_per_replica"),
        ("Classifier", "photos_per_replica"),
    ],
)
@pytest.mark.parametrize(
    "scaling", [{"num_replicas": "auto"}, {"autoscaling_config": {"max_replicas": 4}}]
)
def test_a_deployment_that_would_never_scale_up_is_named_with_the_policy(name, policy, scaling):
    config = merge(SHIPPED.application, {"deployments": [{"name": name, **scaling}]})
    with pytest.raises(ValueError, match=f"{name} would never scale up.*{policy}"):
        ServeConfig({"applications": [config]}).check()


@pytest.mark.parametrize(("text", "named"), [(None, "`mlc keys add`"), ("{}", "no file of keys")])
def test_a_file_of_keys_that_is_missing_or_wrong_is_named_before_anything_starts(
    tmp_path, text, named
):
    file = tmp_path / "keys.json"
    if text is not None:
        file.write_text(text)
    args = {"keys_file": str(file)}
    config = SHIPPED.merge({"applications": [{"name": "mlc", "args": args}]})
    with pytest.raises(ValueError, match="keys_file") as error:
        config.check(models=True)
    assert named in str(error.value)


def test_the_profile_of_a_key_must_be_one_of_the_profiles(tmp_path):
    file = tmp_path / "keys.json"
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    add_key(file, "shop", 10, tomorrow)
    add_key(file, "feed", 10, tomorrow, profile="google")
    args = {"keys_file": str(file)}
    config = SHIPPED.merge({"applications": [{"name": "mlc", "args": args}]})
    with pytest.raises(ValueError, match=r"the key feed has the profile 'google', .* has none"):
        config.check(models=True)
    config = config.with_user_config(profiles=["configs/profiles/google.yaml"])
    config.check(models=True)
    add_key(file, "typo", 10, tomorrow, profile="gogle")
    with pytest.raises(ValueError, match=r"the key typo has the profile 'gogle', .* has google"):
        config.check(models=True)
