"""From a data set to a measured artifact, and from an artifact back to its test split.

Connects reading, splitting, training, quantization and evaluation; each has its own module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlc_core.artifact import Artifact
from mlc_core.errors import ArtifactError, DataSetError
from mlc_core.spec import ImageSize, Spec
from mlc_core.training.dataset import DataSet, Progress, read_dataset
from mlc_core.training.evaluation import LARGER_PX, Infer, class_numbers, infer_all, measure
from mlc_core.training.export import save_artifact
from mlc_core.training.split import TWIN_BITS, Split, split_by_picture


def train_from_source(
    source: Path,
    artifact: Path,
    heads: Sequence[str],
    size: ImageSize,
    recipe: Any,
    run: Path,
    report: Progress = print,
) -> Artifact:
    """Train a model on a data set, measure it on the test split, and save it.

    Raises:
        DataSetError: the data set can't be read, or is too small to be split.
        ArtifactError: what was trained can't be saved as an artifact.
        MlcError: `run` holds something else.
    """
    data, split = read_and_split(source, size, recipe.seed, report)
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
    """Train, measure and save as `train_from_source` does, on a data set that is already read.

    Args:
        artifact: directory …/NAME/VERSION.
        recipe: mlc_core.training.trainer.Recipe.
        run: directory of the checkpoints; training continues from what is there.
        larger_px: widths and heights of the enlarged test photos to measure on as well.
    """
    from mlc_core.training.network import multiply_adds  # noqa: PLC0415  (evaluating needs no Keras)
    from mlc_core.training.trainer import train  # noqa: PLC0415

    classes = data.classes()
    name, version = artifact.parts[-2:]
    spec = Spec(name, version, size, {head: classes[head] for head in heads})
    training = train(data, split, spec, recipe, run, report)
    report(f"measuring on {len(split.test)} photos")
    test = data.take(split.test)
    metrics = {
        **measure(training.model.predict_on_batch, test, spec, larger_px=larger_px),
        "network": {
            "multiply_adds": multiply_adds(training.model),
            "parameters": training.model.count_params(),
        },
        "training": {
            "data": {
                "name": data_name,
                "photos": len(data),
                "rows_skipped": dict(data.skipped),
                "train_photos": len(split.train),
                "validation_photos": len(split.validation),
            },
            "split": {"seed": recipe.seed, "twin_bits_of_256": TWIN_BITS},
            "recipe": asdict(recipe),
            "epochs_run": len(training.history),
            "spent_s": round(sum(epoch["spent_s"] for epoch in training.history)),
        },
    }
    saved = save_artifact(training.model, spec, metrics, artifact)
    return _with_int8(saved, data, split, report)


def quantize_trained(artifact: Artifact, source: Path, report: Progress = print) -> Artifact:
    """Add an int8 network to a model that has none.

    Raises:
        DataSetError: not the data set the model was trained on, or it can't be read.
    """
    data, split = _read_again(artifact, source, report)
    return _with_int8(artifact, data, split, report)


def _with_int8(artifact: Artifact, data: DataSet, split: Split, report: Progress) -> Artifact:
    from mlc_core.training import quantization  # noqa: PLC0415  (evaluating needs no onnx)

    report("calibrating and measuring the int8 network")
    try:
        return quantization.add_int8_network(
            artifact, data.take(split.train), data.take(split.test)
        )
    except ArtifactError as error:
        report(str(error))
        return artifact


def evaluate_artifact(
    artifact: Artifact, infer: Infer, source: Path, out: Path, report: Progress = print
) -> dict[str, Any]:
    """Measure a model on the test split of its data set and draw what it confuses.

    Writes metrics.json and confusion-HEAD.png to `out`; the artifact stays as it is.

    Raises:
        DataSetError: not the data set the model was trained on, or it can't be read.
    """
    from mlc_core.training.confusion import draw_confusion  # noqa: PLC0415  (matplotlib takes a second)

    data, split = _read_again(artifact, source, report)
    test = data.take(split.test)
    report(f"measuring on {len(test)} photos")
    metrics = {**artifact.metrics, **measure(infer, test, artifact.spec)}
    probabilities = infer_all(infer, test.images)
    out.mkdir(parents=True, exist_ok=True)
    for head, classes in artifact.spec.heads.items():
        draw_confusion(
            class_numbers(test.labels[head], classes),
            probabilities[head].argmax(axis=1),
            classes,
            f"{head}, {len(test)} photos of the test split",
            out / f"confusion-{head}.png",
        )
    return metrics


def _read_again(artifact: Artifact, source: Path, report: Progress) -> tuple[DataSet, Split]:
    """The data set that a model was trained on, with the same split."""
    trained = artifact.metrics["training"]
    data, split = read_and_split(source, artifact.spec.image, trained["split"]["seed"], report)
    if len(data) != trained["data"]["photos"]:
        raise DataSetError(
            f"{source} has {len(data)} usable photos, the model was trained on a data set of "
            f"{trained['data']['photos']}; its test split can't be told from what it has seen"
        )
    return data, split


def read_and_split(
    source: Path, size: ImageSize, seed: int, report: Progress = print
) -> tuple[DataSet, Split]:
    """A data set, and which of its photos are to train, to validate and to test on.

    Raises:
        DataSetError: it can't be read, or is too small to be split.
    """
    report(f"reading {source}")
    data = read_dataset(source, size, report)
    report(f"splitting {len(data)} photos by picture")
    split = split_by_picture(data.ids.tolist(), data.images, seed)
    if not (len(split.train) and len(split.validation) and len(split.test)):
        raise DataSetError(f"{source}: {len(data)} usable photos are too few to be split")
    return data, split
