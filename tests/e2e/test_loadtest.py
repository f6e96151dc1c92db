"""Claims about load tests: run as Locust's users run them, against a real service."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml
from photos import jpeg
from readme import printed
from services import PROJECT, Running, Service, environment, free_port, tool, wait_until

from samples.photos import small_photos

KEPT, MISSED, BROKEN = 0, 1, 2  # exit codes


@pytest.fixture(scope="module")
def rehearsal():
    with Service(PROJECT / "configs/rehearsal.yaml") as service:
        yield service


def command(scenario, url, out, *options):
    return [tool("locust"), "-f", f"loadtest/{scenario}.py", "--headless", "--only-summary",
            "--host", url, "--out", str(out), *options]  # fmt: skip


def two_workers():
    """Options of Locust. By default every run listens for workers on the same port."""
    port = str(free_port())
    return ["--processes", "2", "--master-bind-port", port, "--master-port", port]


def run(scenario, url, out, *options):
    """Its exit code, its line of JSON, and all that it said."""
    done = subprocess.run(
        command(scenario, url, out, *options),
        cwd=PROJECT, env=environment(), check=False, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    file = Path(out) / "result.json"
    assert file.exists(), done.stderr
    return done.returncode, json.loads(file.read_text()), done.stdout + done.stderr


@pytest.fixture
def objectives(tmp_path):
    """Writes a file of objectives; returns the option that names it."""

    def write(**values):
        file = tmp_path / "slo.yaml"
        file.write_text(yaml.safe_dump(values))
        return ["--slo", str(file)]

    return write


@pytest.mark.slow
def test_a_spike_is_met_by_four_classifiers_then_one_and_nobody_waits_for_them(
    rehearsal, tmp_path, objectives
):
    """Scaled on photos, in groups: the engine takes its time and no core."""
    port = free_port()
    options = ["--open-loop", "--peak", "130", "--seconds", "75", "--metrics-port", str(port)]
    # What one classifier can't take is refused while the others start.
    options += objectives(error_share=0, refused_share=0.3, p99_s=5)
    running = Running(command("spike", rehearsal.url, tmp_path, *options), tmp_path / "output")

    def told(name):
        try:
            text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
        except httpx.TransportError:
            return 0
        return sum(map(float, re.findall(rf"^{name}\S* ([\d.]+)$", text, re.MULTILINE)))

    wait_until(lambda: told("loadtest_requests_total") > 50, "live metrics", 60)
    assert told("loadtest_arrivals_total") >= 50
    assert told('loadtest_latency_seconds{quantile="0.99"}') > 0
    assert running.wait(150) == KEPT, running.output
    line = json.loads((tmp_path / "result.json").read_text())
    assert line["replicas"]["Classifier"][0] == 1
    assert max(line["replicas"]["Classifier"]) == 4
    assert line["replicas"]["Classifier"][-1] == 1
    assert line["loop"].startswith("open loop")
    assert set(line["faults"]) <= {"refused: 503"}
    assert line["measured"]["requests"] > 1500
    assert (tmp_path / "load.png").stat().st_size > 10_000


@pytest.mark.slow
def test_workers_in_a_closed_loop_see_bad_photos_refused_and_good_ones_answered(url, tmp_path):
    html = tmp_path / "locust.html"
    options = [*two_workers(), "--peak", "8", "--seconds", "8", "--html", str(html)]
    _, line, said = run("hostile", url, tmp_path, *options)
    assert line["faults"] == {}, said
    assert line["measured"]["error_share"] == line["measured"]["refused_share"] == 0
    assert line["loop"] == "closed loop"
    assert line["versions"] == {"2": line["versions"]["2"]}
    assert 10 < line["versions"]["2"] < line["measured"]["requests"]  # bad photos get no version
    assert "/v1/classify/batch" in html.read_text()


def test_make_loadtest_leaves_its_report(url):
    """As the README has it, but for the port."""
    shutil.rmtree(PROJECT / "loadtest-report", ignore_errors=True)
    done = subprocess.run(
        [*shlex.split(printed("make loadtest")), f"URL={url}"],
        cwd=PROJECT, env=environment(), check=False, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    report = PROJECT / "loadtest-report"
    assert "open loop, Poisson arrivals" in done.stdout, done.stderr
    assert json.loads((report / "result.json").read_text())["measured"]["requests"] > 50
    assert {"load.png", "locust.html"} <= {file.name for file in report.iterdir()}


@pytest.mark.slow
def test_two_workers_share_the_rate_of_an_open_loop(url, tmp_path):
    options = [*two_workers(), "--open-loop", "--peak", "40", "--seconds", "10"]
    _, line, said = run("steady", url, tmp_path, *options)
    assert line["faults"] == {}, said
    assert 300 < line["measured"]["requests"] < 500, said
    assert line["measured"]["requests_per_s"] < 50, said


def test_one_is_measured_against_four_and_a_missed_objective_ends_with_1(url, tmp_path, objectives):
    """Against itself: what counts is that each has figures of its own."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, photo in enumerate(small_photos(5)):
        (photos / f"{number}.jpg").write_bytes(photo)
    options = ["--against", url, "--peak", "4", "--seconds", "12", "--photos", str(photos)]
    code, line, said = run("one_against_four", url, tmp_path, *options, *objectives(p99_s=0.0001))
    assert code == MISSED, said
    assert line["missed"] == ["p99_s"]
    routes = line["routes"]
    assert routes["one /v1/classify"]["requests"] > 20
    assert routes["four /v1/classify"]["requests"] > 20


def test_a_service_that_is_not_there_makes_a_broken_run(tmp_path):
    address = f"http://127.0.0.1:{free_port()}"
    code, line, said = run("ramp", address, tmp_path, "--peak", "2", "--seconds", "4")
    assert code == BROKEN, said
    assert "is the service up?" in line["broken"][0]


@pytest.mark.slow
def test_a_roll_out_under_load_tells_both_versions_and_loses_nothing(
    tmp_path, shipped_config, shipped_model
):
    model = tmp_path / "models" / "3"
    shutil.copytree(shipped_model, model)
    spec = model / "spec.json"
    spec.write_text(spec.read_text().replace('"version": "2"', '"version": "3"', 1))
    with (model / "SHA256SUMS").open("w") as sums:
        names = sorted(file.name for file in model.iterdir() if file.name != "SHA256SUMS")
        subprocess.run(["sha256sum", *names], cwd=model, stdout=sums, check=True)
    with Service() as service:
        config = shipped_config.with_user_config(model=str(model))
        file = config.listening("127.0.0.1", service.port).write(tmp_path / "config.yaml")
        (address,) = re.findall(r"--address (\S+)", service.output)
        deploy = f"env RAY_AUTH_MODE=token {tool('serve')} deploy --address {address} {file}"
        options = ["--rollout", deploy, "--peak", "4", "--seconds", "20"]
        _, line, said = run("model_rollout", service.url, tmp_path, *options)
        assert line["broken"] == [], said
        assert line["faults"] == {}, said
        assert set(line["versions"]) == {"2", "3"}
        answer = httpx.post(f"{service.url}/v1/classify", content=jpeg(), trust_env=False).json()
        assert answer["model"]["version"] == "3"
