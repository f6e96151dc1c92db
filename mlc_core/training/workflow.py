"""Trains and measures a model on a data set, and measures an artifact on any data set.

Connects reading, splitting, training, quantization and evaluation; each has its own module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlc_core.artifact import Artifact
from mlc_core.errors import ArtifactError, DataSetError
from mlc_core.sources.files import Progress
from mlc_core.spec import HEADS, ImageSize, Spec
from mlc_core.training.calibration import calibrate, confidences
from mlc_core.training.dataset import DataSet, read_dataset
from mlc_core.training.evaluation import (
    LARGER_PX,
    Infer,
    class_numbers,
    infer_all,
    measure,
    name_all,
    unknown_classes,
)
from mlc_core.training.export import save_artifact
from mlc_core.training.report import write_report
from mlc_core.training.similarity import measure_similarity
from mlc_core.training.split import TWIN_BITS, Split, split_by_picture

_QUERIES_OF = 6  # photos of a set, one is searched by
_FEWEST_SEARCHED = 20  # twice as many as the nearest that count


def train_from_source(
    source: Path,
    artifact: Path,
    heads: Sequence[str],
    size: ImageSize,
    recipe: Any,
    run: Path,
    report: Progress = print,
    feedback: Path | None = None,
) -> Artifact:
    """Train a model on a data set, calibrate it, measure it on the test split, and save it.

    Args:
        feedback: a directory of feedback, whose photos join those of the data set.

    Raises:
        DataSetError: the data set can't be read, or is too small to be split.
        ArtifactError: the trained network can't be saved as an artifact.
        MlcError: `run` holds checkpoints of another recipe or other classes, or packages of a
            teacher are missing.
    """
    data, split = read_and_split(source, size, recipe.seed, report, heads, feedback)
    return train_artifact(source.stem, data, split, artifact, heads, size, recipe, run, report)


def train_artifact(
    data_name: str,
    data: DataSet,
    split: Split,
    artifact: Path,
    heads: Sequence[str],
    size: ImageSize,
    recipe: Any,
    run: Path,
    report: Progress = print,
    larger_px: Sequence[tuple[int, int]] = LARGER_PX,
) -> Artifact:
    """Do what `train_from_source` does, on a data set that is already read.

    Args:
        artifact: directory …/NAME/VERSION.
        recipe: mlc_core.training.trainer.Recipe.
        run: directory of the checkpoints; training continues from what is there.
        larger_px: widths and heights of the enlarged test photos to measure on as well.
    """
    from mlc_core.training.trainer import train  # noqa: PLC0415  (evaluating needs no Keras)

    classes = data.classes()
    name, version = artifact.parts[-2:]
    spec = Spec(name, version, size, {head: classes[head] for head in heads})
    training = train(data, split, spec, recipe, run, report)
    return export_trained(
        data_name, data, split, spec, training, recipe, artifact, report, larger_px
    )


def export_trained(
    data_name: str,
    data: DataSet,
    split: Split,
    spec: Spec,
    training: Any,
    recipe: Any,
    artifact: Path,
    report: Progress = print,
    larger_px: Sequence[tuple[int, int]] = LARGER_PX,
) -> Artifact:
    """Calibrate, measure, save and quantize a trained network.

    Args:
        training: mlc_core.training.trainer.Training.
        recipe: mlc_core.training.trainer.Recipe.
    """
    from mlc_core.training.embedding import add_embedding  # noqa: PLC0415
    from mlc_core.training.network import multiply_adds  # noqa: PLC0415

    train, validation = data.take(split.train), data.take(split.validation)
    catalogue = train.join(validation)
    epochs = training.history
    network = add_embedding(training.model, catalogue, spec, recipe.seed, report)
    report(f"calibrating on {len(validation)} photos")
    spec = calibrate(network, spec, train, validation)
    report(f"measuring on {len(split.test)} photos")
    test = data.take(split.test)
    metrics = {
        **measure(network.predict_on_batch, test, spec, larger_px=larger_px),
        "similarity": measure_similarity(network.predict_on_batch, test, catalogue, spec),
        "network": {
            "multiply_adds": multiply_adds(network),
            "parameters": network.count_params(),
        },
        "training": {
            "data": {
                "name": data_name,
                "photos": len(data),
                "digest": data.digest(),
                "rows_skipped": dict(data.skipped),
                "train_photos": len(split.train),
                "validation_photos": len(split.validation),
            },
            "split": {"seed": recipe.seed, "twin_bits_of_256": TWIN_BITS},
            "recipe": asdict(recipe),
            "epochs_run": len(epochs),
            "spent_s": round(sum(epoch["spent_s"] for epoch in epochs)),
        },
    }
    saved = save_artifact(network, spec, metrics, artifact, training_ids=catalogue.ids.tolist())
    return _with_int8(saved, data, split, report, larger_px)


def quantize_trained(artifact: Artifact, source: Path, report: Progress = print) -> Artifact:
    """Add an int8 network to a model that has none.

    Returns:
        The same object if an int8 network would lose too much.

    Raises:
        DataSetError: not the data set the model was trained on, or it can't be read.
    """
    data = _read_labels(artifact, source, report, all_heads=True)
    if not _is_training_data(artifact, data):
        raise DataSetError(
            f"{source} is not the data set that {artifact.path} was trained on; "
            "int8 is calibrated and checked on that one, name it"
        )
    return _with_int8(artifact, data, _split_of_training(artifact, data, report), report)


def _with_int8(
    artifact: Artifact,
    data: DataSet,
    split: Split,
    report: Progress,
    larger_px: Sequence[tuple[int, int]] = LARGER_PX,
) -> Artifact:
    from mlc_core.training import quantization  # noqa: PLC0415  (evaluating needs no onnx)

    report("calibrating and measuring the int8 network")
    try:
        return quantization.add_int8_network(
            artifact,
            data.take(split.train),
            data.take(split.validation),
            data.take(split.test),
            larger_px,
        )
    except ArtifactError as error:
        report(str(error))
        return artifact


def evaluate_artifact(
    artifact: Artifact, infer: Infer, source: Path, out: Path, report: Progress = print
) -> dict[str, Any]:
    """Measure a model on the photos of a labelled data set that it has not seen.

    On the data set of the training, these are the photos of the test split. Heads for which the
    data set has no labels are left out. Writes report.md and its pictures to `out`.

    Returns:
        What `measure` returns, with the model and the data it belongs to.

    Raises:
        DataSetError: the data set can't be read, or the model has seen all of it.
    """
    # Here, as matplotlib takes a second.
    from mlc_core.training.confusion import draw_confusion  # noqa: PLC0415
    from mlc_core.training.reliability import draw_reliability  # noqa: PLC0415

    data = _read_labels(artifact, source, report, all_heads=False)
    heads = {head: classes for head, classes in artifact.spec.heads.items() if head in data.labels}
    for head in artifact.spec.heads:
        if head not in heads:
            report(f"{head} is not measured: {source} has no labels of it")
    spec = artifact.spec.part(heads)
    known = _is_training_data(artifact, data)
    unseen = _unseen(artifact, data, known, source, report)
    report(f"measuring on {len(unseen)} photos")
    strange = {head: unknown_classes(unseen.labels[head], of) for head, of in heads.items()}
    for head, counts in strange.items():
        if counts:
            counted = ", ".join(f"{label} {count}" for label, count in counts.items())
            report(f"{head}: the model lacks these classes, their photos count as wrong: {counted}")
    # Photos of other sets are measured as they are, whatever their size.
    measured = measure(infer, unseen, spec, larger_px=LARGER_PX if known else ())
    if artifact.spec.embedding is not None:
        queries, catalogue = _as_catalogue(data, unseen, known)
        if len(catalogue) < _FEWEST_SEARCHED:
            report(f"{len(data)} photos are too few to search among")
        else:
            report(f"searching {len(catalogue)} photos for {len(queries)}")
            measured["similarity"] = measure_similarity(infer, queries, catalogue, spec)
    probabilities = infer_all(infer, unseen.images)
    named = name_all(probabilities, spec)
    confidence = confidences(probabilities, named)
    out.mkdir(parents=True, exist_ok=True)
    part = "the test split" if known else source.name
    reliabilities = {}
    for head, classes in heads.items():
        truth = class_numbers(unseen.labels[head], classes)
        reliabilities[head] = confidence[head], named[head] == truth
        if (truth >= 0).any():
            title = f"{head}, {len(unseen)} photos of {part}"
            draw_confusion(truth, named[head], classes, title, out / f"confusion-{head}.png")
    draw_reliability(reliabilities, out / "reliability.png")
    write_report(out, spec, measured, unseen, named, f" of {part}")
    return {
        "model": {"name": spec.name, "version": spec.version},
        "data": {
            "name": source.stem,
            "photos": len(data),
            "digest": data.digest(),
            "rows_skipped": dict(data.skipped),
            "test_split": known,
            "left_out_as_seen": len(data) - len(unseen),
            "unknown_classes": strange,
        },
        **measured,
    }


def _as_catalogue(data: DataSet, unseen: DataSet, known: bool) -> tuple[DataSet, DataSet]:
    """Photos to search by, and those to search among.

    On the data set of the training, the unseen ones are searched by. Elsewhere they are both, and
    a random sixth of them is searched by.
    """
    if known:
        return unseen, data.take(np.flatnonzero(~np.isin(data.ids, unseen.ids)))
    order = np.random.default_rng(0).permutation(len(unseen))
    queries = -(-len(order) // _QUERIES_OF)
    return unseen.take(np.sort(order[:queries])), unseen.take(np.sort(order[queries:]))


def _unseen(
    artifact: Artifact, data: DataSet, known: bool, source: Path, report: Progress
) -> DataSet:
    """The photos of `data` that the model was neither trained nor validated on, by their ids."""
    seen = artifact.training_ids()
    if known:
        report(f"{source} is the data set of the training, so its test split is measured")
    if known and seen is None:
        return data.take(_split_of_training(artifact, data, report).test)
    if seen is None:
        report(
            f"{artifact.path} does not list the photos it was trained on; "
            f"if some of {source} are among them, the figures are too good"
        )
        return data
    unseen = data.take(np.flatnonzero(~np.isin(data.ids, list(seen))))
    left_out = len(data) - len(unseen)
    if not len(unseen):
        raise DataSetError(
            f"{source}: the model was trained or validated on the ids of all {len(data)} photos; "
            "name other photos, or give these other ids if they are not the same photos"
        )
    hint = "; if they are other photos, give them other ids" if left_out and not known else ""
    report(f"left out {left_out} photos with ids of the training or validation split{hint}")
    return unseen


def _read_labels(artifact: Artifact, source: Path, report: Progress, *, all_heads: bool) -> DataSet:
    report(f"reading {source}")
    heads = tuple(artifact.spec.heads)
    return read_dataset(source, artifact.spec.image, report, heads, all_heads=all_heads)


def _is_training_data(artifact: Artifact, data: DataSet) -> bool:
    """Whether a model was trained on this data set: by digest, else by number of photos and ids."""
    trained = artifact.metrics.get("training", {}).get("data", {})
    if "digest" in trained:
        return bool(trained["digest"] == data.digest())
    seen = artifact.training_ids() or frozenset()
    return trained.get("photos") == len(data) and seen.issubset(data.ids.tolist())


def _split_of_training(artifact: Artifact, data: DataSet, report: Progress) -> Split:
    return _split(data, artifact.metrics["training"]["split"]["seed"], report)


def read_and_split(
    source: Path,
    size: ImageSize,
    seed: int,
    report: Progress = print,
    heads: Sequence[str] = HEADS,
    feedback: Path | None = None,
) -> tuple[DataSet, Split]:
    """Read a data set, and choose the photos to train, to validate and to test on.

    Args:
        feedback: a directory of feedback, whose photos join those of the data set.

    Raises:
        DataSetError: it can't be read, or is too small to be split.
    """
    report(f"reading {source}")
    data = read_dataset(source, size, report, heads)
    if feedback is not None:
        report(f"reading {feedback}")
        more = read_dataset(feedback, size, report, heads)
        skipped = Counter(data.skipped) + Counter(more.skipped)
        data = replace(data.join(more), skipped=skipped)
    split = _split(data, seed, report)
    if not (len(split.train) and len(split.validation) and len(split.test)):
        raise DataSetError(f"{source}: {len(data)} usable photos are too few to be split")
    return data, split


def _split(data: DataSet, seed: int, report: Progress) -> Split:
    report(f"splitting {len(data)} photos by picture")
    return split_by_picture(data.ids.tolist(), data.images, seed)
