"""`make compare`: one model for all labels against one model per label.

It trains those of the five models that are missing, all with one recipe on one split. Then it
measures both variants in interleaved rounds and writes docs/one-model-or-four.md.
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
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from bench import say
from bench.load import ClosedLoop
from bench.one_or_four_report import write_report
from bench.servers import Server, machine, run_in_subprocess
from deployments.serve_config import ServeConfig
from deployments.settings import PROJECT
from mlc_core.artifact import Artifact, load_artifact
from mlc_core.engines.engine import Images, Precision, Probabilities
from mlc_core.engines.loading import load_engine
from mlc_core.errors import ArtifactError
from mlc_core.spec import DEFAULT_IMAGE_SIZE, HEADS
from mlc_core.training.dataset import DataSet
from mlc_core.training.evaluation import class_numbers, infer_all, measure
from mlc_core.training.workflow import read_and_split, train_artifact
from samples.photos import small_photos

ONE = "fashion"
VARIANTS = ("one", "four")
CONNECTIONS = (1, 32, 64)

Figures = dict[str, dict[str, list[float]]]  # figure -> variant -> one value per round


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.one_or_four", description=__doc__)
    parser.add_argument("data", metavar="DATA", type=Path, help="a Fashion Product Images data set")
    parser.add_argument("--epochs", type=int, default=24, help="of each of the five models")
    parser.add_argument("--precision", choices=("float32", "mixed_bfloat16"), default="float32")
    parser.add_argument(
        "--models", type=Path, default=PROJECT / "models/compared", help="where the five are kept"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs", help="of the report")
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    models, test = run_in_subprocess(
        _train, args.data, args.models.resolve(), args.epochs, args.precision
    )
    quantized = all(model.int8_path.exists() for model in models.values())
    precision: Precision = "int8" if quantized else "float32"
    accuracy = run_in_subprocess(_accuracies, models, precision, test)
    figures: Figures = defaultdict(lambda: defaultdict(list))
    for number in range(1, args.rounds + 1):
        variants = VARIANTS if number % 2 else VARIANTS[::-1]  # neither is always the first
        say(f"round {number} of {args.rounds}: in one process")
        bare = run_in_subprocess(
            _in_process, variants, models, precision, test.images[:256], args.seconds
        )
        for variant in variants:
            for figure, value in bare[variant].items():
                figures[figure][variant].append(value)
            say(f"round {number} of {args.rounds}: serving {variant}")
            _served(figures, variant, models, precision, args.seconds)
    report = write_report(args.out, models, accuracy, figures, precision, machine())
    say(f"wrote {report}")
    medians = {
        f: {w: statistics.median(v) for w, v in variants.items()} for f, variants in figures.items()
    }
    line = {"machine": machine(), "rounds": args.rounds, "accuracy": accuracy,
            "figures": medians}  # fmt: skip
    sys.stdout.write(json.dumps(line) + "\n")
    return 0


def _train(
    source: Path, folder: Path, epochs: int, precision: str
) -> tuple[dict[str, Artifact], DataSet]:
    """The five models, trained where they are missing, and the test split.

    Raises:
        ArtifactError: an existing model was trained with another recipe or on other data.
    """
    from mlc_core.training.trainer import Recipe  # noqa: PLC0415  (Keras takes seconds)

    recipe = Recipe(epochs=epochs, precision=precision)
    data, split = read_and_split(source, DEFAULT_IMAGE_SIZE, recipe.seed, say)
    models = {}
    for name, heads in {ONE: HEADS, **{head: (head,) for head in HEADS}}.items():
        path = folder / name / "1"
        if not path.exists():
            say(f"training {name}")
            train_artifact(
                source.stem,
                data,
                split,
                path,
                heads,
                DEFAULT_IMAGE_SIZE,
                recipe,
                folder / "runs" / name,
                say,
                (),
            )
        models[name] = load_artifact(path)
        trained = models[name].metrics["training"]
        asked = {"name": source.stem, "photos": len(data), "train_photos": len(split.train)}
        if trained["recipe"] != asdict(recipe) or not asked.items() <= trained["data"].items():
            raise ArtifactError(
                f"{path} was trained on {trained['data']} by {trained['recipe']}; "
                "ask for just that, or remove it to train it again"
            )
    return models, data.take(split.test)


def _by_variant(each: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {"one": [each[ONE]], "four": [each[head] for head in HEADS]}


def _accuracies(
    models: Mapping[str, Artifact], precision: Precision, test: DataSet
) -> list[dict[str, Any]]:
    """A row for each head: accuracy and macro-F1 of both variants, and McNemar's exact test.

    The test is a two-sided binomial test on the photos that only one of the two variants gets right
    (McNemar 1947, Psychometrika 12:153).
    """
    engines = {
        name: load_engine("onnxruntime", model, threads=0, precision=precision)
        for name, model in models.items()
    }
    measured = {
        name: measure(engine.infer, test, models[name].spec, larger_px=())["heads"]
        for name, engine in engines.items()
    }
    guessed = {name: infer_all(engine.infer, test.images) for name, engine in engines.items()}
    rows = []
    for head in HEADS:
        truth = class_numbers(test.labels[head], models[ONE].spec.heads[head])
        one, four = (guessed[name][head].argmax(axis=1) == truth for name in (ONE, head))
        only_one, only_four = int((one & ~four).sum()), int((four & ~one).sum())
        discordant = only_one + only_four
        row: dict[str, Any] = {"head": head}
        for variant, name in zip(VARIANTS, (ONE, head), strict=True):
            row[f"accuracy {variant}"] = measured[name][head]["accuracy"]
            row[f"macro_f1 {variant}"] = measured[name][head]["macro_f1"]
        row["only one right"], row["only four right"] = only_one, only_four
        row["p"] = float(binomtest(only_one, discordant).pvalue) if discordant else 1.0
        rows.append(row)
    return rows


def _merged(infers: Sequence[Callable[[Images], Probabilities]], images: Images) -> Probabilities:
    return {head: p for infer in infers for head, p in infer(images).items()}


def _in_process(
    variants: Sequence[str], models: Mapping[str, Artifact], precision: Precision, images: Images,
    seconds: float,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Measure without a service: ONNX Runtime on one thread in batches of 32, Keras' `predict`.

    Returns:
        variant -> figure -> value.
    """
    import keras  # noqa: PLC0415  (it takes seconds)

    engines = {
        name: load_engine("onnxruntime", model, precision=precision).infer
        for name, model in models.items()
    }
    predicts = {
        name: partial(keras.saving.load_model(model.keras_path, compile=False).predict, verbose=0)
        for name, model in models.items()
    }
    figures: dict[str, dict[str, float]] = {}
    for variant in variants:
        infers, plainly = _by_variant(engines)[variant], _by_variant(predicts)[variant]
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            at = count % len(images)
            count += len(_merged(infers, images[at : at + 32])["color"])
        rate = count / (time.perf_counter() - began)
        _merged(plainly, images[:1])  # traces
        took_s = []
        for image in images[:30]:
            began = time.perf_counter()
            _merged(plainly, image[None])
            took_s.append(time.perf_counter() - began)
        figures[variant] = {
            "engines alone: images/s": rate,
            "one photo under predict: ms": 1e3 * statistics.median(took_s),
        }
    return figures


def _config(variant: str, models: Mapping[str, Artifact], precision: Precision) -> ServeConfig:
    """The Serve config of a variant, on the models that are compared."""
    file = {"one": "serve_config.yaml", "four": "configs/four_models.yaml"}[variant]
    config = ServeConfig.read(PROJECT / file)
    for classifier, model in zip(config.classifiers(), _by_variant(models)[variant], strict=True):
        classifier["user_config"] |= {"model": str(model.path), "precision": precision}
    return config


def _served(
    figures: Figures,
    variant: str,
    models: Mapping[str, Artifact],
    precision: Precision,
    seconds: float,
) -> None:
    load = ClosedLoop(small_photos(256))
    config = _config(variant, models, precision)
    replicas = config.settings.classifiers

    def add(figure: str, value: float) -> None:
        figures[figure][variant].append(value)

    with (
        tempfile.TemporaryDirectory() as folder,
        Server(config.write(Path(folder) / "config.yaml")) as server,
    ):
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
                add("core-ms per photo", sum(each.values()))
                classifying = sum(each[name] for name in replicas)
                add("of which in classifiers", classifying)
        proportional, own = server.memory_bytes(), server.memory_bytes("uss")
        add("classifiers' memory: MB (PSS)", sum(proportional[n] for n in replicas) / 1e6)
        add("of which not shared: MB (USS)", sum(own[n] for n in replicas) / 1e6)
        add("whole service: MB (PSS)", sum(proportional.values()) / 1e6)


if __name__ == "__main__":
    sys.exit(main())
