"""Trains a network by a recipe, an epoch at a time, and resumes a run that was killed.

Runs on any Keras backend. Writes checkpoints to the run directory; export saves the artifact.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from mlc_core.errors import DataSetError, MlcError
from mlc_core.spec import Spec
from mlc_core.training.augmentation import augment
from mlc_core.training.dataset import DataSet, Progress
from mlc_core.training.network import MultiHeadNetwork
from mlc_core.training.split import Split

_SETTLING, _SETTLING_BATCH = 64, 256  # batches, photos
_LAST, _BEST, _STATE, _PLAN = "last.keras", "best.keras", "state.json", "plan.json"


@dataclass(frozen=True)
class Recipe:
    """How to train; metrics.json records it.

    Attributes:
        learning_rate: at its peak; it rises over the first epoch and falls by a half cosine.
        weight_decay: AdamW's, as a fraction of the learning rate.
        label_smoothing: share of the target spread over all classes; colour labels are noisy.
        averaging: momentum of the moving average of the weights. Training validates and saves
            the averaged weights.
        patience_epochs: training stops after so many epochs without a better mean validation
            accuracy.
        loss_weights: head -> weight of its loss; 1 where a head is not named.
        precision: Keras dtype policy of the training; the saved network is float32.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    averaging: float = 0.998
    patience_epochs: int = 8
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    precision: str = "float32"
    seed: int = 7


@dataclass(frozen=True)
class Training:
    """A trained network and its history.

    Attributes:
        model: Keras network in float32 with the weights of the best epoch.
        history: one entry an epoch, in order: loss, validation accuracy a head, seconds.
    """

    model: Any
    history: list[dict[str, float]]


class LabelledBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Images and one-hot labels in batches, shuffled and augmented for training.

    A batch depends on the seed, the epoch and its number alone, so a resumed run sees the same
    batches as one that was not killed.
    """

    def __init__(self, data: DataSet, spec: Spec, recipe: Recipe, training: bool) -> None:
        super().__init__(workers=1, max_queue_size=8)
        self._images = data.images
        self._targets = {
            head: _one_hot(data.labels[head], classes) for head, classes in spec.heads.items()
        }
        self._recipe = recipe
        self._training = training
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(len(self._images) / self._recipe.batch_size)

    def __getitem__(self, number: int) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.float32]]]:
        order = np.arange(len(self._images))
        if self._training:
            np.random.default_rng((self._recipe.seed, self.epoch)).shuffle(order)
        taken = order[number * self._recipe.batch_size : (number + 1) * self._recipe.batch_size]
        images = self._images[taken]
        if self._training:
            images = augment(images, np.random.default_rng((self._recipe.seed, self.epoch, number)))
        return images, {head: target[taken] for head, target in self._targets.items()}


class _Checkpoint(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves and reports after each epoch, and stops when nothing has improved for long."""

    def __init__(
        self, run: Path, recipe: Recipe, batches: LabelledBatches, report: Progress
    ) -> None:
        super().__init__()
        self._run = run
        self._recipe = recipe
        self._batches = batches
        self._report = report
        self.history = _read_state(run)
        self._started_s = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._batches.epoch = epoch
        self._started_s = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        logs = logs or {}
        spent_s = time.monotonic() - self._started_s
        accuracy = {
            head: float(logs.get(f"val_{head}_accuracy", logs.get("val_accuracy", np.nan)))
            for head in self.model.output
        }
        entry = {"loss": float(logs["loss"]), **accuracy, "spent_s": round(spent_s, 1)}
        self.history.append({name: round(value, 5) for name, value in entry.items()})
        scores = [_score(one, accuracy) for one in self.history]
        best = int(np.argmax(scores))
        _replace(self._run / _LAST, self.model.save)
        if best == epoch:
            _replace(self._run / _BEST, self.model.save)
        _replace(self._run / _STATE, lambda file: file.write_text(json.dumps(self.history)))
        heads = " ".join(f"{head} {value:.2%}" for head, value in accuracy.items())
        number = f"{epoch + 1}/{self._recipe.epochs}"
        self._report(
            f"epoch {number}: loss {entry['loss']:.4f}, validation {heads}, {spent_s:.0f} s"
        )
        if epoch - best >= self._recipe.patience_epochs:
            self._report(f"no better for {epoch - best} epochs, stopping")
            self.model.stop_training = True


def train(
    data: DataSet, split: Split, spec: Spec, recipe: Recipe, run: Path, report: Progress = print
) -> Training:
    """Train a network of `spec`, or continue a run that was killed.

    Args:
        run: directory of the checkpoints; created if it is missing.

    Raises:
        DataSetError: a part of the split is empty.
        MlcError: `run` holds checkpoints of another recipe or spec.
    """
    if not len(split.train) or not len(split.validation):
        raise DataSetError("too few photos: the training or the validation part is empty")
    _refuse_other_plan(run, spec, recipe)
    batches = LabelledBatches(data.take(split.train), spec, recipe, training=True)
    model = _begin(spec, recipe, len(batches)) if not (run / _LAST).exists() else None
    if model is None:
        model = _load(run / _LAST)
        report(f"continuing after epoch {len(_read_state(run))}")
    checkpoint = _Checkpoint(run, recipe, batches, report)
    batches.epoch = len(checkpoint.history)  # Keras reads a batch before the epoch begins
    if not _finished(checkpoint.history, spec, recipe):
        model.fit(
            batches,
            validation_data=LabelledBatches(
                data.take(split.validation), spec, recipe, training=False
            ),
            epochs=recipe.epochs,
            initial_epoch=len(checkpoint.history),
            shuffle=False,
            callbacks=[keras.callbacks.SwapEMAWeights(), checkpoint],
            verbose=0,
        )
    model = _averaged(spec, run, data.images[split.train], recipe.seed)
    return Training(model, checkpoint.history)


def _load(checkpoint: Path) -> Any:
    # On PyTorch, Keras saves an optimizer class that other backends can't import.
    return keras.saving.load_model(checkpoint, custom_objects={"AdamW": keras.optimizers.AdamW})


def _begin(spec: Spec, recipe: Recipe, steps: int) -> Any:
    keras.utils.set_random_seed(recipe.seed)
    keras.config.set_dtype_policy(recipe.precision)
    try:
        model = MultiHeadNetwork(spec).build_model()
    finally:
        keras.config.set_dtype_policy("float32")
    warm_up = min(steps, recipe.epochs * steps // 5)
    schedule = keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate / 20,
        decay_steps=max(1, recipe.epochs * steps - warm_up),
        warmup_target=recipe.learning_rate,
        warmup_steps=warm_up,
    )
    optimizer = keras.optimizers.AdamW(
        schedule,
        weight_decay=recipe.weight_decay,
        clipnorm=5.0,
        use_ema=True,
        ema_momentum=recipe.averaging,
    )
    # Weight decay is for kernels; on scales and offsets it only works against normalisation.
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    model.compile(
        optimizer,
        loss={
            head: keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing)
            for head in spec.heads
        },
        loss_weights={head: recipe.loss_weights.get(head, 1.0) for head in spec.heads},
        metrics={head: ["accuracy"] for head in spec.heads},
        jit_compile=False,  # compiling takes longer than it saves on a CPU
    )
    return model


def _averaged(spec: Spec, run: Path, images: NDArray[np.uint8], seed: int) -> Any:
    """The best epoch's averaged weights, in a float32 network that is not compiled."""
    best = _load(run / _BEST)
    best.optimizer.finalize_variable_values(best.trainable_variables)
    model = MultiHeadNetwork(spec).build_model()
    model.set_weights(best.get_weights())
    settle_norms(model, images, seed)
    return model


def settle_norms(model: Any, images: NDArray[np.uint8], seed: int) -> None:
    """Measure the statistics of every batch normalisation again, for the averaged weights.

    Those from training belong to the weights before averaging, to augmented images and to
    dropout. None of them is there at inference (Izmailov et al. 2018, section 3.2).

    Args:
        images: uint8 (N, height_px, width_px, 3) of the training split.
    """
    norms = [each for each in model.layers if isinstance(each, keras.layers.BatchNormalization)]
    dropouts = [each for each in model.layers if isinstance(each, keras.layers.Dropout)]
    before = [norm.momentum for norm in norms], [dropout.rate for dropout in dropouts]
    order = np.random.default_rng(seed).permutation(len(images))[: _SETTLING * _SETTLING_BATCH]
    for dropout in dropouts:
        dropout.rate = 0.0
    for number, start in enumerate(range(0, len(order), _SETTLING_BATCH)):
        for norm in norms:
            norm.momentum = number / (number + 1)  # the plain mean over all batches so far
        model(images[order[start : start + _SETTLING_BATCH]], training=True)
    for layer, momentum in zip(norms, before[0], strict=True):
        layer.momentum = momentum
    for layer, rate in zip(dropouts, before[1], strict=True):
        layer.rate = rate


def _finished(history: list[dict[str, float]], spec: Spec, recipe: Recipe) -> bool:
    if not history:
        return False
    best = int(np.argmax([_score(entry, spec.heads) for entry in history]))
    return len(history) >= recipe.epochs or len(history) - 1 - best >= recipe.patience_epochs


def _score(entry: Mapping[str, float], heads: Any) -> float:
    """Mean validation accuracy of the heads."""
    return float(np.mean([entry[head] for head in heads]))


def _one_hot(labels: NDArray[np.str_], classes: tuple[str, ...]) -> NDArray[np.float32]:
    position = {label: at for at, label in enumerate(classes)}
    return np.eye(len(classes), dtype=np.float32)[[position[label] for label in labels.tolist()]]


def _refuse_other_plan(run: Path, spec: Spec, recipe: Recipe) -> None:
    plan = json.dumps({"spec": json.loads(spec.to_json()), "recipe": asdict(recipe)}, indent=1)
    run.mkdir(parents=True, exist_ok=True)
    file = run / _PLAN
    if (run / _LAST).exists() and file.read_text(encoding="utf-8") != plan:
        raise MlcError(
            f"{run} holds checkpoints of another recipe or other classes; "
            "name another --run, or remove it"
        )
    _replace(file, lambda new: new.write_text(plan, encoding="utf-8"))


def _read_state(run: Path) -> list[dict[str, float]]:
    file = run / _STATE
    return list(json.loads(file.read_text())) if file.exists() and (run / _LAST).exists() else []


def _replace(file: Path, write: Any) -> None:
    """Write beside the file, then rename: a kill leaves the old one or the new one."""
    new = file.with_name(f"new-{file.name}")
    write(new)
    new.replace(file)
