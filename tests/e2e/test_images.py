"""What the steps of k8s/Dockerfile do, done in a clean virtual environment: images need a builder.

Takes minutes, for the downloads. Not the GPU image's, whose packages are gigabytes: its steps
are the serving image's but for the extra, which tests/k8s/test_images.py holds.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dockerfile import sources, steps
from photos import jpeg
from services import PROJECT, Running, answers, free_port, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
# An image's user, and what only a builder has.
OF_THE_BUILDER = {"groupadd", "WORKDIR", "USER", "EXPOSE", "HEALTHCHECK", "CMD"}


class Image:
    """An image's /app and /opt/venv as folders of this machine, its environment, its commands."""

    def __init__(self, root: Path, target: str) -> None:
        self._root, self.app = root, root / "app"
        # No index or constraint is set here that was not set for this run.
        keep = ("PATH", "LANG", "SSL_CERT_FILE", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
        self._env = {k: v for k, v in os.environ.items() if k in keep or k.startswith("PIP_")}
        self.said: dict[str, str] = {}
        (root / "tmp").mkdir()
        # The folder /app is another in each stage; what pip noted of it is its name.
        for stage in (f"{target}-packages", target):
            shutil.rmtree(self.app, ignore_errors=True)
            self.app.mkdir()
            for step in steps(stage):
                self._do(step)

    def _here(self, text: str) -> str:
        for there in ("/opt/venv", "/tmp", "/app"):  # noqa: S108
            text = text.replace(there, f"{self._root}{there.removeprefix('/opt')}")
        return text

    def _do(self, step):
        self.said[step.name] = step.text
        if step.name == "ENV":
            for part in shlex.split(self._here(step.text)):
                name, _, value = part.partition("=")
                self._env[name] = value.replace("$PATH", self._env.get("PATH", ""))
        elif step.name == "COPY" and "from" not in step.options:
            for source in sources(step):
                target = self.app / shlex.split(step.text)[-1]
                path = PROJECT / source
                if path.is_dir():
                    shutil.copytree(path, target)
                else:
                    shutil.copy(path, target)
        elif step.name == "RUN" and not step.text.startswith("groupadd"):
            command = self._here(step.text)
            if command.startswith("python -m venv"):  # of the Python that runs the tests
                command = f"{sys.executable} {command.removeprefix('python ')}"
            self.run(command, within_s=600)
        else:
            known = OF_THE_BUILDER | {"COPY", "RUN"}
            assert step.name in known, f"nobody does {step.name} here"

    @property
    def env(self) -> dict[str, str]:
        return self._env

    def run(self, command: str, within_s: float = 60) -> str:
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.app, env=self._env, check=False, timeout=within_s,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def command(self, name: str) -> list[str]:
        """CMD or HEALTHCHECK, as it is run."""
        return json.loads(self.said[name].partition("CMD ")[2] or self.said[name])


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    return Image(tmp_path_factory.mktemp("serve"), "serve")


def test_the_serving_image_has_ray_and_no_tensorflow(serve):
    names = {each["name"] for each in json.loads(serve.run("pip list --format json"))}
    assert {"ray", "onnxruntime"} <= names
    assert not {"tensorflow", "keras", "torch", "locust", "pytest"} & names
    assert "ray, version 2." in serve.run("ray --version")


def test_the_serving_image_has_our_code_and_the_model(serve):
    path = serve.run("cd / && python -c 'import deployments.settings as s; print(s.PROJECT)'")
    assert Path(path.strip()) == serve.app
    serve.run(
        "cd / && python -c 'from deployments.http.middleware import middlewares; middlewares()'"
    )
    (serve.app.parent / "photo.jpg").write_bytes(jpeg())
    assert "category" in serve.run("mlc classify ../photo.jpg")


def test_the_serving_image_serves_and_its_health_check_says_so(serve, tmp_path):
    port = free_port()
    # 8000 may be somebody's on this machine.
    command = [*serve.command("CMD"), "--port", str(port)]
    check = [word.replace("8000", str(port)) for word in serve.command("HEALTHCHECK")]
    env = serve.env | {"NO_PROXY": "127.0.0.1", "RAY_AUTH_MODE": "disabled"}
    serving = Running(["env", "-C", str(serve.app), *command], tmp_path / "output", env)
    try:

        def healthy():
            done = subprocess.run(check, env=env, capture_output=True, check=False, timeout=30)
            return done.returncode == 0

        wait_until(healthy, f"healthy: {serving.output}", 150)
    finally:
        serving.press_ctrl_c()
        code = serving.wait()
    assert code == 0
    assert not answers(f"http://127.0.0.1:{port}/healthz")


def test_the_load_test_image_has_locust_and_its_scenarios(tmp_path):
    image = Image(tmp_path, "loadtest")
    assert "Shopper" in image.run(f"{shlex.join(image.command('CMD'))} --list")
