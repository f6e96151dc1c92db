"""Claims about what is made for Kubernetes of the project's own configuration."""

import yaml
from manifests import PROJECT, of_kind, render, serve_config

from deployments.settings import Settings


def test_overlays_leave_all_else_of_the_serve_config_as_it_is(objects):
    """What no cluster may change unnoticed: the application and its limits."""
    ours = yaml.safe_load((PROJECT / "serve_config.yaml").read_text(encoding="utf-8"))
    theirs = serve_config(objects)
    assert theirs["http_options"] == ours["http_options"] | {"host": "0.0.0.0"}
    assert theirs["logging_config"] == ours["logging_config"]
    (our_app,), (their_app,) = ours["applications"], theirs["applications"]
    for key in ("name", "route_prefix", "import_path"):
        assert their_app[key] == our_app[key]
    theirs_settings, ours_settings = Settings(**their_app["args"]), Settings(**our_app["args"])
    for key in ("deadline_s", "limits"):
        assert getattr(theirs_settings, key) == getattr(ours_settings, key)
    for our, their in zip(our_app["deployments"], their_app["deployments"], strict=True):
        assert their["name"] == our["name"]
        # A classifier's is raised to its target, which Serve compares it with.
        if our["name"] != "Classifier":
            assert their["max_ongoing_requests"] == our["max_ongoing_requests"]


def test_the_alerts_and_the_dashboard_are_the_projects_own():
    objects = render("cpu", "monitoring")
    (rule,) = of_kind(objects, "PrometheusRule")
    rules = yaml.safe_load((PROJECT / "monitoring/rules.yaml").read_text(encoding="utf-8"))
    assert rule["spec"] == rules
    (dashboard,) = [c for c in of_kind(objects, "ConfigMap") if "dashboard.json" in c["data"]]
    text = (PROJECT / "monitoring/dashboard.json").read_text(encoding="utf-8")
    assert dashboard["data"]["dashboard.json"] == text
