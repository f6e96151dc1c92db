"""`make compare`: one model for all labels against one model a label.

Trains what is missing of the five, all with one recipe on one split, then measures both ways and
writes docs/one-model-or-four.md. Rounds are interleaved: machines drift, ratios do not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.stats import binomtest

from bench.load import ClosedLoop
from bench.one_or_four_report import write_report
from bench.servers import Server, machine
from deployments.settings import PROJECT
from mlc_core.artifact import Artifact, load_artifact
from mlc_core.dataset import DataSet
from mlc_core.engine import Images, Precision, Probabilities, load_engine
from mlc_core.errors import ArtifactError
from mlc_core.evaluation import class_numbers, infer_all
from mlc_core.production import read_and_split, train_artifact
from mlc_core.spec import HEADS, ImageSize
from samples.photos import small_photos

ONE = "fashion"
WAYS = ("one", "four")
CONNECTIONS = (1, 32, 64)
_SIZE = ImageSize(height_px=80, width_px=60)

Figures = dict[str, dict[str, list[float]]]  # figure -> way -> a value a round


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.one_or_four", description=__doc__)
    parser.add_argument("data", metavar="DATA", type=Path, help="a Fashion Product Images data set")
    parser.add_argument("--epochs", type=int, default=3, help="of each of the five models")
    parser.add_argument("--precision", choices=("float32", "mixed_bfloat16"), default="float32")
    parser.add_argument(
        "--models", type=Path, default=PROJECT / "models/compared", help="where the five are kept"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs", help="of the report")
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    models, test = _train(args.data, args.models.resolve(), args.epochs, args.precision)
    precision: Precision = (
        "int8" if all(m.int8_path.exists() for m in models.values()) else "float32"
    )
    predicts = _load_plainly(models)
    figures: Figures = defaultdict(lambda: defaultdict(list))
    for number in range(1, args.rounds + 1):
        _say(f"round {number} of {args.rounds}: engines alone")
        _engines(figures, models, precision, test.images[:256], args.seconds)
        _say(f"round {number} of {args.rounds}: one photo under predict")
        _predict(figures, predicts, test.images[:20])
        for way in WAYS:
            _say(f"round {number} of {args.rounds}: serving {way}")
            _served(figures, way, models, precision, args.seconds)
    accuracy = _accuracies(models, test)
    report = write_report(args.out, models, accuracy, figures, precision, machine())
    _say(f"wrote {report}")
    medians = {f: {w: statistics.median(v) for w, v in ways.items()} for f, ways in figures.items()}
    line = {"machine": machine(), "rounds": args.rounds, "accuracy": accuracy, "figures": medians}
    sys.stdout.write(json.dumps(line) + "\n")
    return 0


def _train(
    source: Path, folder: Path, epochs: int, precision: str
) -> tuple[dict[str, Artifact], DataSet]:
    """The five models, trained where they are missing, and the test split.

    Raises:
        ArtifactError: one that is there was trained by another recipe.
    """
    from mlc_core.training import Recipe  # noqa: PLC0415  (Keras takes seconds)

    # Few steps: the average must not reach back to the weights that training began with.
    recipe = Recipe(epochs=epochs, averaging=0.99, precision=precision)
    data, split = read_and_split(source, _SIZE, recipe.seed, _say)
    models = {}
    for name, heads in {ONE: HEADS, **{head: (head,) for head in HEADS}}.items():
        path = folder / name / "1"
        if not path.exists():
            _say(f"training {name}")
            train_artifact(
                source.stem,
                data,
                split,
                path,
                heads,
                _SIZE,
                recipe,
                folder / "runs" / name,
                _say,
                (),
            )
        models[name] = load_artifact(path)
        trained = models[name].metrics["training"]["recipe"]
        if (trained["epochs"], trained["precision"]) != (epochs, precision):
            raise ArtifactError(
                f"{path} was trained for {trained['epochs']} epochs in {trained['precision']}; "
                "ask for that, or remove it to train it again"
            )
    return models, data.take(split.test)


def _ways(each: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {"one": [each[ONE]], "four": [each[head] for head in HEADS]}


def _accuracies(models: Mapping[str, Artifact], test: DataSet) -> list[dict[str, Any]]:
    """A row a head: accuracy and macro-F1 both ways, and McNemar's exact test on the same photos.

    The test is two-sided binomial on the photos that just one of the two is right on (McNemar
    1947, Psychometrika 12:153).
    """
    infer = {name: load_engine("onnxruntime", m, threads=0).infer for name, m in models.items()}
    one = infer_all(infer[ONE], test.images)
    rows = []
    for head in HEADS:
        truth = class_numbers(test.labels[head], models[ONE].spec.heads[head])
        right = [
            np.asarray(probabilities.argmax(axis=1) == truth)
            for probabilities in (one[head], infer_all(infer[head], test.images)[head])
        ]
        only_one, only_four = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
        discordant = only_one + only_four
        p = binomtest(only_one, discordant).pvalue if discordant else 1.0
        measured = [models[name].metrics["heads"][head] for name in (ONE, head)]
        rows.append(
            {
                "head": head,
                **{f"{key} {way}": m[key] for key in ("accuracy", "macro_f1")
                   for way, m in zip(WAYS, measured, strict=True)},
                "only one right": only_one, "only four right": only_four, "p": round(float(p), 4),
            }
        )  # fmt: skip
    return rows


def _merged(infers: Sequence[Callable[[Images], Probabilities]], images: Images) -> Probabilities:
    return {head: p for infer in infers for head, p in infer(images).items()}


def _engines(
    figures: Figures, models: Mapping[str, Artifact], precision: Precision, images: Images, s: float
) -> None:
    """Images a second of ONNX Runtime on one thread, in batches of 32."""
    engines = {
        name: load_engine("onnxruntime", model, precision=precision).infer
        for name, model in models.items()
    }
    for way, infers in _ways(engines).items():
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < s / 2:
            at = count % len(images)
            count += len(_merged(infers, images[at : at + 32])["color"])
        rate = count / (time.perf_counter() - began)
        figures["engines alone: images/s"][way].append(rate)


def _load_plainly(models: Mapping[str, Artifact]) -> dict[str, Callable[[Images], Probabilities]]:
    """The `model.predict` of each Keras model."""
    import keras  # noqa: PLC0415  (it takes seconds)

    return {
        name: partial(keras.saving.load_model(model.keras_path, compile=False).predict, verbose=0)
        for name, model in models.items()
    }


def _predict(
    figures: Figures, predicts: Mapping[str, Callable[[Images], Probabilities]], images: Images
) -> None:
    """The plainest form: `model.predict` of one photo, in one Keras model or in four."""
    for way, infers in _ways(predicts).items():
        _merged(infers, images[:1])  # traces
        took_s = []
        for image in images:
            began = time.perf_counter()
            _merged(infers, image[None])
            took_s.append(time.perf_counter() - began)
        figures["one photo under predict: ms"][way].append(1e3 * statistics.median(took_s))


def _config(way: str, models: Mapping[str, Artifact], precision: Precision) -> dict[str, Any]:
    """The Serve config of a way, on the models that are compared."""
    file = {"one": "serve_config.yaml", "four": "serve_config.four_models.yaml"}[way]
    config: dict[str, Any] = yaml.safe_load((PROJECT / file).read_text(encoding="utf-8"))
    paths = iter([model.path for model in _ways(models)[way]])
    for deployment in config["applications"][0]["deployments"]:
        if "user_config" in deployment:
            deployment["user_config"] |= {"model": str(next(paths)), "precision": precision}
    return config


def _served(
    figures: Figures, way: str, models: Mapping[str, Artifact], precision: Precision, seconds: float
) -> None:
    load = ClosedLoop(small_photos(256))
    config = _config(way, models, precision)
    replicas = [d["name"] for d in config["applications"][0]["deployments"] if "user_config" in d]

    def add(figure: str, value: float) -> None:
        figures[figure][way].append(value)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"  # JSON is YAML
        path.write_text(json.dumps(config))
        with Server(path) as server:
            add("start to ready: s", server.ready_s)
            load(server.url, 64, 3)
            for connections in CONNECTIONS:
                before = server.cpu_s()
                result = load(server.url, connections, seconds)
                spent = {n: s - before.get(n, 0.0) for n, s in server.cpu_s().items()}
                add(f"{connections} connections: photos/s", result.rate)
                add(f"{connections} connections: p50 ms", 1e3 * result.p50_s)
                add(f"{connections} connections: p99 ms", 1e3 * result.p99_s)
                add("failures", result.failures)
                if connections == 64:
                    each = {n: 1e3 * s / result.answers for n, s in spent.items()}
                    add("CPU seconds a thousand photos", sum(each.values()))
                    classifying = sum(each[name] for name in replicas)
                    add("of which in classifiers", classifying)
            proportional, own = server.memory_bytes(), server.memory_bytes("uss")
            add("classifiers' memory: MB (PSS)", sum(proportional[n] for n in replicas) / 1e6)
            add("of which not shared: MB (USS)", sum(own[n] for n in replicas) / 1e6)
            add("whole service: MB (PSS)", sum(proportional.values()) / 1e6)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
