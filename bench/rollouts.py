"""`make rollouts`: other args, other code, another model and two that fail, each under load.

Other code is a copy of this project that speaks another version of the protocol between replicas.
The other model has other classes and takes images of another size. It ends with a verdict for each
number of replicas, a line of JSON, and an exit code of 1 if a request failed or an answer mixes
versions.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from bench import say
from bench.servers import Server, machine, process_name
from deployments.serve_config import ServeConfig
from deployments.settings import PROJECT
from launcher.processes import processes
from mlc_core.spec import ImageSize, Spec
from samples.photos import small_photos

_DEPLOYMENTS = ("Ingress", "Preprocessor", "Classifier")
_CLIENTS = 16
_WITHIN_S = 240.0
_AFTER_S = 3.0  # for which the load goes on


@dataclass(frozen=True)
class RollOut:
    """What one roll-out cost.

    Attributes:
        took_s: seconds until all replicas had the new version, or Serve reported the failure.
        failed: what the requests got that were not answered with 200.
        mixed: answers of classes that the version they name does not have.
        versions: of the model -> answers.
    """

    replicas: int
    change: str
    took_s: float
    requests: int
    failed: dict[str, int]
    mixed: int
    versions: dict[str, int]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.rollouts", description=__doc__)
    parser.add_argument(
        "--replicas", type=int, nargs="+", default=[1, 2], help="of each deployment"
    )
    parser.add_argument("--rate", type=float, default=150.0, help="photos per second")
    args = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory(prefix="mlc-") as folder:
        other = other_model(Path(folder) / "other")
        code = _other_code(Path(folder) / "code")
        for count in args.replicas:
            runs += roll_out(count, args.rate, other, code)
    say("| replicas | change | took, s | requests | failed | mixed | versions that answered |")
    say("|---|---|---|---|---|---|---|")
    for run in runs:
        failed = ", ".join(f"{why}: {count}" for why, count in run.failed.items()) or "–"
        say(f"| {run.replicas} | {run.change} | {run.took_s:.0f} | {run.requests} | {failed} "
             f"| {run.mixed} | {', '.join(run.versions)} |")  # fmt: skip
    missed = [run for run in runs if run.failed or run.mixed]
    say("kept" if not missed else f"missed: {', '.join(run.change for run in missed)}")
    say(json.dumps({"machine": machine(), "rollouts": [asdict(run) for run in runs]}))
    return 1 if missed else 0


def roll_out(replicas: int, rate: float, other: Path, code: Path) -> list[RollOut]:
    """Each change in turn, with so many replicas of each deployment."""
    shipped = ServeConfig.read(PROJECT / "serve_config.yaml")
    (classifier,) = shipped.classifiers()
    specs = [
        json.loads((model / "spec.json").read_text())
        for model in (PROJECT / classifier["user_config"]["model"], other)
    ]
    classes = {spec["version"]: spec["heads"] for spec in specs}
    base = shipped.merge(
        _application(
            deployments=[{"name": each, "num_replicas": replicas} for each in _DEPLOYMENTS]
        )
    )
    environment = {"env_vars": {"PYTHONPATH": str(code)}}
    changed = base.merge(_application(args={"deadline_s": 9.0}))
    newer = changed.merge(_application(runtime_env=environment))
    broken = newer.merge(_application(args={"deadline_s": "soon"}))
    swapped = newer.with_user_config(model=str(other), precision="float32")
    nowhere = swapped.with_user_config(model=str(other.with_name("nowhere")))
    done = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(base.write(Path(folder) / "config.yaml")) as server,
    ):
        for change, config, is_done in (
            ("other args", changed, _replaced(server)),
            ("other code", newer, _replaced(server)),
            ("args that are wrong", broken, _refused(server)),
            ("another model", swapped, _serves(server, "other")),
            ("a model that is not there", nowhere, _keeps(server)),
        ):
            with _clients(server.url, rate, classes) as (answers, failed, mixed):
                before = is_done()
                began = time.monotonic()
                server.deploy(config)
                while is_done() == before:
                    if time.monotonic() > began + _WITHIN_S:
                        raise TimeoutError(f"{change}: not within {_WITHIN_S} s")
                    time.sleep(0.2)
                took_s = time.monotonic() - began
                time.sleep(_AFTER_S)
            done.append(
                RollOut(replicas, change, took_s, answers.total() + failed.total(), dict(failed),
                        len(mixed), dict(answers))
            )  # fmt: skip
            say(f"{replicas} of each, {change}: {took_s:.0f} s, {failed.total()} failed")
    return done


def other_model(path: Path) -> Path:
    """An untrained artifact of other classes and another image size."""
    from mlc_core.training.export import save_artifact  # noqa: PLC0415
    from mlc_core.training.network import MultiHeadNetwork  # noqa: PLC0415

    heads = {"color": ("Mauve", "Taupe"), "master_category": ("Garden", "Kitchen"),
             "sub_category": ("Pots", "Pans"), "category": ("Kettles", "Rakes")}  # fmt: skip
    spec = Spec("fashion", "other", ImageSize(height_px=40, width_px=30), heads)
    metrics: dict[str, Any] = {"heads": {head: {} for head in heads}}
    save_artifact(MultiHeadNetwork(spec).build_model(), spec, metrics, path)
    return path


def _other_code(path: Path) -> Path:
    for package in ("deployments", "mlc_core"):
        shutil.copytree(PROJECT / package, path / package)
    (path / "models").symlink_to(PROJECT / "models")
    wire = path / "deployments/pipeline/wire.py"
    text, changed = (
        wire.read_text(),
        wire.read_text().replace('PROTOCOL = b"MLC', 'PROTOCOL = b"NEW'),
    )
    if text == changed:
        raise RuntimeError(f"{wire} has no PROTOCOL to change")
    wire.write_text(changed)
    return path


def _application(**keys: Any) -> dict[str, Any]:
    return {"applications": [{"name": "mlc", **keys}]}


def _replaced(server: Server) -> Callable[[], object]:
    """A value that changes when no process of now is left, and the new ones answer."""
    old: set[int] = set()

    def value() -> bool:
        found = [p.pid for p in processes(server.port) if process_name(p) in _DEPLOYMENTS]
        if not old:
            old.update(found)
        return not old.intersection(found)

    return value


def _refused(server: Server) -> Callable[[], object]:
    return lambda: "DEPLOY_FAILED" in server.status()


def _serves(server: Server, version: str) -> Callable[[], object]:
    return lambda: _model(server)["version"] == version


def _keeps(server: Server) -> Callable[[], object]:
    return lambda: bool(_model(server)["refused_update"])


def _model(server: Server) -> dict[str, Any]:
    model: dict[str, Any] = httpx.get(f"{server.url}/v1/model", trust_env=False, timeout=30).json()
    return model


@contextmanager
def _clients(
    url: str, rate: float, classes: Mapping[str, Mapping[str, Sequence[str]]]
) -> Iterator[tuple[Counter[str], Counter[str], list[str]]]:
    """Clients with kept connections: answers by version, failures, and answers that are mixed."""
    answers: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    mixed: list[str] = []
    over = threading.Event()
    photos = small_photos(_CLIENTS)

    def ask(photo: bytes) -> None:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            while not over.wait(_CLIENTS / rate):
                try:
                    response = client.post("/v1/classify", content=photo)
                except httpx.HTTPError as error:
                    failed[type(error).__name__] += 1
                    continue
                if response.status_code != httpx.codes.OK:
                    failed[f"{response.status_code} {response.text}"] += 1
                    continue
                answer = response.json()
                version = answer["model"]["version"]
                answers[version] += 1
                if any(
                    label["label"] not in classes[version][head]
                    for head, label in answer["labels"].items()
                ):
                    mixed.append(response.text)

    threads = [threading.Thread(target=ask, args=(photo,)) for photo in photos]
    for thread in threads:
        thread.start()
    try:
        yield answers, failed, mixed
    finally:
        over.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    sys.exit(main())
