"""Claims about what is made for Kubernetes of the project's own configuration."""

import pytest
import yaml
from manifests import K8S, PROJECT, of_kind, render, serve_config

from k8s.render import merged, rendered


@pytest.mark.parametrize("path", rendered(), ids=lambda path: str(path.relative_to(K8S)))
def test_made_files_are_what_their_sources_say(path):
    assert path.read_text(encoding="utf-8") == rendered()[path], "run: python -m k8s.render"


def test_a_difference_is_merged_by_key_and_by_name():
    config = {"a": {"b": 1, "c": 2}, "list": [1], "named": [{"name": "x", "y": 1}, {"name": "z"}]}
    difference = {"a": {"c": 3}, "list": [2], "named": [{"name": "x", "y": {"new": 1}}]}
    assert merged(config, difference) == {
        "a": {"b": 1, "c": 3},
        "list": [2],
        "named": [{"name": "x", "y": {"new": 1}}, {"name": "z"}],
    }
    with pytest.raises(ValueError, match="no such name: Clasifier"):
        merged([{"name": "Classifier"}], [{"name": "Clasifier"}])


def test_overlays_leave_all_else_of_the_serve_config_as_it_is(objects):
    """What no cluster may change unnoticed: the application and its limits."""
    ours = yaml.safe_load((PROJECT / "serve_config.yaml").read_text(encoding="utf-8"))
    theirs = serve_config(objects)
    assert theirs["http_options"] == ours["http_options"] | {"host": "0.0.0.0"}
    assert theirs["logging_config"] == ours["logging_config"]
    (our_app,), (their_app,) = ours["applications"], theirs["applications"]
    for key in ("name", "route_prefix", "import_path"):
        assert their_app[key] == our_app[key]
    for key in ("deadline_s", "limits"):
        assert their_app["args"][key] == our_app["args"][key]
    for our, their in zip(our_app["deployments"], their_app["deployments"], strict=True):
        assert their["name"] == our["name"]
        assert their["max_ongoing_requests"] == our["max_ongoing_requests"]


def test_the_alerts_and_the_dashboard_are_the_projects_own():
    objects = render("cpu", "monitoring")
    (rule,) = of_kind(objects, "PrometheusRule")
    rules = yaml.safe_load((PROJECT / "monitoring/rules.yaml").read_text(encoding="utf-8"))
    assert rule["spec"] == rules
    (dashboard,) = [c for c in of_kind(objects, "ConfigMap") if "dashboard.json" in c["data"]]
    text = (PROJECT / "monitoring/dashboard.json").read_text(encoding="utf-8")
    assert dashboard["data"]["dashboard.json"] == text
