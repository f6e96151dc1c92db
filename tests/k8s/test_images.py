"""Claims about the images, without their steps; tests/e2e/test_images.py does those."""

import fnmatch
import json
import re
import subprocess
import tomllib

import pytest
from dockerfile import DOCKERFILE, TARGETS, sources, stages, steps
from manifests import COMPONENTS, OVERLAYS, PROJECT, pods, render
from services import tool

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
VERSION = PYPROJECT["project"]["version"]


def test_hadolint_has_nothing_to_say():
    done = subprocess.run(
        [tool("hadolint"), "--failure-threshold", "style", DOCKERFILE],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")


def test_every_image_starts_from_one_pinned_python_that_the_project_supports():
    (base,) = {base for base, _ in stages().values() if base not in stages()}
    assert re.fullmatch(r"python:3\.1[12]\.\d+-slim-bookworm", base)


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_nobody_in_particular_and_says_how_it_is(target):
    said = {step.name: step.text for step in steps(target)}
    assert said["USER"] == "1000:1000"
    assert said["HEALTHCHECK"] != "NONE"
    assert json.loads(said["CMD"])


@pytest.mark.parametrize("target", TARGETS)
def test_packages_are_installed_in_a_stage_of_their_own_and_pinned(target):
    pip = [s for s in steps(target) if s.name == "RUN" and "pip install" in s.text]
    assert pip == []
    copied = {step.options["from"] for step in steps(target) if "from" in step.options}
    assert copied == {f"{target}-packages"}
    (install,) = [s.text for s in steps(f"{target}-packages") if "pip install" in s.text]
    assert "-c requirements.lock" in install


def test_tensorflow_is_in_the_gpu_image_alone():
    extras = {
        target: re.findall(r"\.\[([\w,]+)\]", " ".join(s.text for s in steps(f"{target}-packages")))
        for target in TARGETS
    }
    assert extras == {"serve": ["postgres"], "gpu": ["gpu,postgres"], "loadtest": ["loadtest"]}
    wanted = PYPROJECT["project"]["optional-dependencies"]
    assert any("tensorflow" in name for name in wanted["gpu"])
    others = (*PYPROJECT["project"]["dependencies"], *wanted["loadtest"])
    assert not any("tensorflow" in name for name in others)


def ignored(path):
    """Whether .dockerignore keeps a path from the builder; the last line that fits decides."""
    verdict = False
    for line in (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").removeprefix("**/")
            parents = [path, *map(str, PROJECT.joinpath(path).relative_to(PROJECT).parents)]
            names = [path.rpartition("/")[2]] if "**/" in line else parents
            if any(fnmatch.fnmatch(name, pattern) for name in names if name != "."):
                verdict = not line.startswith("!")
    return verdict


def test_the_builder_is_given_what_is_copied_and_nothing_else():
    copied = {
        source for _, own in stages().values() for step in own
        if step.name == "COPY" and "from" not in step.options for source in sources(step)
    }  # fmt: skip
    for source in copied:
        assert (PROJECT / source).exists(), source
        assert not ignored(source), source
    for path in (
        ".git",
        ".venv",
        "runs",
        "tests",
        "k8s",
        "models/compared",
        "deployments/__pycache__",
    ):
        assert ignored(path), path


def test_manifests_name_images_that_are_built_in_the_projects_version():
    built = {"serve": "mlc", "gpu": "mlc-gpu", "loadtest": "mlc-loadtest"}
    assert set(built) == set(TARGETS) <= set(stages())
    for overlay in OVERLAYS:
        for name, pod in pods(render(overlay, *COMPONENTS)).items():
            for container in pod["spec"]["containers"]:
                image, _, tag = container["image"].partition(":")
                if name == "mlc-redis":
                    assert re.fullmatch(r"7\.2\.\d+-bookworm", tag)
                else:
                    assert image in built.values()
                    assert tag == VERSION


def test_pods_run_as_the_user_whom_the_image_knows():
    (line,) = [s.text for s in steps("serve") if s.text.startswith("groupadd")]
    assert "--gid 1000" in line
    assert "--uid 1000" in line
    for name, pod in pods(render("cpu", *COMPONENTS)).items():
        if name != "mlc-redis":
            assert pod["spec"]["securityContext"]["runAsUser"] == 1000


def test_locust_is_given_a_file_that_the_image_has():
    for name, pod in pods(render("cpu", "loadtest")).items():
        if name.startswith("mlc-locust"):
            (container,) = pod["spec"]["containers"]
            command, option, file, *_ = container["command"]
            assert (command, option) == ("locust", "-f")
            assert (PROJECT / file.removeprefix("/app/")).is_file()
            assert any(sources(s) == ["loadtest"] for s in steps("loadtest") if s.name == "COPY")
