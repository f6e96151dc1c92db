"""Trains a network by a recipe, an epoch at a time, and resumes a run that was killed.

Runs on any Keras backend. Writes checkpoints to the run directory; export saves the artifact. If
there is a teacher, it is trained and asked first, and that resumes too.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from mlc_core.errors import DataSetError, MlcError
from mlc_core.sources.files import Progress
from mlc_core.spec import Spec
from mlc_core.training.augmentation import augment, jitter
from mlc_core.training.dataset import DataSet
from mlc_core.training.distillation import SoftTargets
from mlc_core.training.evaluation import Infer, accuracies
from mlc_core.training.network import MultiHeadNetwork
from mlc_core.training.norms import settle_norms
from mlc_core.training.split import Split

_LAST, _BEST, _STATE, _PLAN = "last.keras", "best.keras", "state.json", "plan.json"
_TEACHERS = ("teacher-*.pt", "soft-targets-*.npz")
_FORMAT = 5  # of a run directory; in 4 a teacher was one network
# What was measured: 400 drawn photos at 30×40 pixels, default recipe, the epoch in which the mean
# validation accuracy reaches 95%.
#
# Batches shrink until an epoch has 20 steps, but not below 16 photos: epoch 3. With batches of 128,
# which make 3 steps an epoch: epoch 6.
_STEPS, _SMALLEST_BATCH = 20, 16
# The moving average spans at most this part of a run's steps: epoch 3. With a momentum of 0.998 in
# the same 630 steps: epoch 12. A fourteenth leaves 0.998 to 30 epochs of 30,526 photos.
_SPAN = 1 / 14


@dataclass(frozen=True)
class Recipe:
    """How to train; metrics.json records it.

    Attributes:
        learning_rate: at its peak; it rises over the first epoch and falls by a half cosine.
        weight_decay: AdamW's, as a fraction of the learning rate.
        label_smoothing: share of the target spread over all classes; colour labels are noisy.
        batch_size: photos in a batch at most; fewer in a small data set, see `batch_photos`.
        averaging: momentum of the moving average of the weights at most; less in a short run, see
            `averaging_over`. Training validates and saves the averaged weights.
        patience_epochs: training stops after so many epochs without a better mean validation
            accuracy.
        loss_weights: head -> weight of its loss; 1 where a head is not named.
        precision: Keras dtype policy of the training; the saved network is float32.
        teacher_epochs: of a teacher that is trained first (mlc_core.training.teacher); 0: no
            teacher, the labels alone are the targets.
        teachers: networks that the teacher averages.
        teacher_share: of the teacher's probabilities in the targets; the rest is the label.
        views: varied views of each photo that the teacher sees; an epoch trains on one of them.
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
    teacher_epochs: int = 0
    teachers: int = 3
    teacher_share: float = 0.9
    views: int = 12
    seed: int = 7

    @classmethod
    def taught(cls, **chosen: Any) -> Recipe:
        """The recipe of the model that ships: a teacher, and a longer training that it bears.

        Labels that a teacher has smoothed need no smoothing, and validation accuracy rises to the
        end.

        Args:
            chosen: attributes that differ.
        """
        taught = {
            "epochs": 150, "patience_epochs": 150, "learning_rate": 2e-3, "label_smoothing": 0.0,
            "teacher_epochs": 7,
        }  # fmt: skip
        return cls(**(taught | chosen))

    def batch_photos(self, photos: int) -> int:
        """Photos in a batch, when there are so many to train on."""
        return min(self.batch_size, max(_SMALLEST_BATCH, photos // _STEPS))

    def averaging_over(self, steps: int) -> float:
        """Momentum of the moving average in a run of so many steps."""
        return min(self.averaging, 1 - 1 / max(1.0, steps * _SPAN))


@dataclass(frozen=True)
class Training:
    """A trained network and its history.

    Attributes:
        model: Keras network in float32 with the averaged weights of the best epoch; of epochs that
            are equally good, the last.
        history: one entry an epoch, in order: loss, validation accuracy a head (of the network that
            would have been saved then), seconds.
    """

    model: Any
    history: list[dict[str, float]]


class LabelledBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Images, shuffled and augmented, and their targets in batches.

    The targets are the labels, one-hot, or a mixture of them and of a teacher's probabilities. A
    teacher's images are mirrored and shifted at random, as it says nearly the same of all of them.

    A batch depends on the seed, the epoch and its number alone, so a resumed run sees the same
    batches as one that was not killed.
    """

    def __init__(
        self, data: DataSet, spec: Spec, recipe: Recipe, soft: SoftTargets | None = None
    ) -> None:
        super().__init__(workers=1, max_queue_size=8)
        self._soft, self._share = soft, recipe.teacher_share
        self._images = data.images
        self._targets = {
            head: _one_hot(data.labels[head], classes) for head, classes in spec.heads.items()
        }
        self._seed = recipe.seed
        self._photos = recipe.batch_photos(len(data))
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(len(self._images) / self._photos)

    def __getitem__(self, number: int) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.float32]]]:
        order = np.random.default_rng((self._seed, self.epoch)).permutation(len(self._images))
        taken = order[number * self._photos : (number + 1) * self._photos]
        rng = np.random.default_rng((self._seed, self.epoch, number))
        targets = {head: target[taken] for head, target in self._targets.items()}
        if self._soft is None:
            return augment(self._images[taken], rng), targets
        images, said = self._soft.batch(self._images, self.epoch, taken)
        return jitter(images, rng), {
            head: self._share * said[head] + (1 - self._share) * target
            for head, target in targets.items()
        }


class _Validation:
    """Makes the network that would be saved from the one in training, and measures it.

    Attributes:
        network: the one measured last, in float32.
    """

    def __init__(
        self, images: NDArray[np.uint8], validation: DataSet, spec: Spec, seed: int
    ) -> None:
        self.network = MultiHeadNetwork(spec).build_model()
        self._images = images
        self._validation = validation
        self._spec = spec
        self._seed = seed

    def measure(self, trained: Any) -> dict[str, float]:
        """Validation accuracy of each head, with averaged weights and settled norms."""
        self.network.set_weights(trained.get_weights())
        trained.optimizer.finalize_variable_values(self.network.trainable_variables)
        settle_norms(self.network, self._images, self._seed)
        return accuracies(self.network.predict_on_batch, self._validation, self._spec)


class _AfterEpoch(keras.callbacks.Callback):  # type: ignore[misc]
    """Validates, saves and reports after each epoch, and stops when nothing improved for long."""

    def __init__(
        self,
        run: Path,
        recipe: Recipe,
        batches: LabelledBatches,
        validation: _Validation,
        history: list[dict[str, float]],
        report: Progress,
    ) -> None:
        super().__init__()
        self._run = run
        self._recipe = recipe
        self._batches = batches
        self._validation = validation
        self._report = report
        self.history = history
        self._started_s = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._batches.epoch = epoch
        self._started_s = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        loss = float((logs or {})["loss"])
        accuracy = self._validation.measure(self.model)
        spent_s = time.monotonic() - self._started_s
        self.history.append({"loss": round(loss, 5), **accuracy, "spent_s": round(spent_s, 1)})
        scores = _scores(self.history, accuracy)
        if scores[-1] == max(scores):  # of equal epochs the later one, which has learned longer
            _replace(self._run / _BEST, self._validation.network.save)
        _replace(self._run / _STATE, lambda file: file.write_text(json.dumps(self.history)))
        # This one ends the epoch: a run that is killed before it repeats the epoch.
        _replace(self._run / _LAST, self.model.save)
        heads = " ".join(f"{head} {value:.2%}" for head, value in accuracy.items())
        number = f"{epoch + 1}/{self._recipe.epochs}"
        self._report(f"epoch {number}: loss {loss:.4f}, validation {heads}, {spent_s:.0f} s")
        if (stale := _epochs_since_better(scores)) >= self._recipe.patience_epochs:
            self._report(f"no better for {stale} epochs, stopping")
            self.model.stop_training = True


def train(
    data: DataSet, split: Split, spec: Spec, recipe: Recipe, run: Path, report: Progress = print
) -> Training:
    """Train a network of `spec`, or continue a run that was killed.

    Args:
        run: directory of the checkpoints; created if it is missing.

    Raises:
        DataSetError: a part of the split is empty.
        MlcError: `run` holds checkpoints of another recipe or spec, or of an older mlc.
    """
    if not len(split.train) or not len(split.validation):
        raise DataSetError("too few photos: the training or the validation part is empty")
    _refuse_other_plan(run, spec, recipe)
    taught, validation = data.take(split.train), data.take(split.validation)
    soft = None
    if recipe.teacher_epochs:
        soft = SoftTargets(run, recipe.views, recipe.seed)
        soft.write(
            lambda: _teacher(taught, validation, spec, recipe, run, report), taught.images, report
        )
    batches = LabelledBatches(taught, spec, recipe, soft)
    history: list[dict[str, float]] = []
    if (run / _LAST).exists():
        model = _load(run / _LAST)
        # Rounded: with mixed_float16, Keras leaves out steps whose gradients overflow.
        finished = round(int(model.optimizer.iterations) / len(batches))
        history = json.loads((run / _STATE).read_text())[:finished]
        report(f"continuing after epoch {finished}")
    else:
        model = _begin(spec, recipe, len(batches))
    measured = _Validation(taught.images, validation, spec, recipe.seed)
    batches.epoch = len(history)  # Keras reads a batch before the epoch begins
    if not _finished(history, spec, recipe):
        model.fit(
            batches,
            epochs=recipe.epochs,
            initial_epoch=len(history),
            shuffle=False,
            callbacks=[_AfterEpoch(run, recipe, batches, measured, history, report)],
            verbose=0,
        )
    return Training(keras.saving.load_model(run / _BEST), history)


def _teacher(
    train: DataSet, validation: DataSet, spec: Spec, recipe: Recipe, run: Path, report: Progress
) -> Infer:
    from mlc_core.training.teacher import teach  # noqa: PLC0415  (it needs PyTorch)

    return teach(
        train, validation, spec, recipe.teachers, recipe.teacher_epochs, recipe.seed, run, report
    )


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
        ema_momentum=recipe.averaging_over(recipe.epochs * steps),
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
        jit_compile=False,  # compiling takes longer than it saves on a CPU
    )
    return model


def _finished(history: list[dict[str, float]], spec: Spec, recipe: Recipe) -> bool:
    if not history:
        return False
    stale = _epochs_since_better(_scores(history, spec.heads))
    return len(history) >= recipe.epochs or stale >= recipe.patience_epochs


def _scores(history: list[dict[str, float]], heads: Iterable[str]) -> list[float]:
    """Mean validation accuracy of the heads, an epoch each."""
    return [float(np.mean([entry[head] for head in heads])) for entry in history]


def _epochs_since_better(scores: list[float]) -> int:
    return len(scores) - 1 - scores.index(max(scores))


def _one_hot(labels: NDArray[np.str_], classes: tuple[str, ...]) -> NDArray[np.float32]:
    position = {label: at for at, label in enumerate(classes)}
    return np.eye(len(classes), dtype=np.float32)[[position[label] for label in labels.tolist()]]


def _refuse_other_plan(run: Path, spec: Spec, recipe: Recipe) -> None:
    made = {"format": _FORMAT, "spec": json.loads(spec.to_json()), "recipe": asdict(recipe)}
    plan = json.dumps(made, indent=1)
    run.mkdir(parents=True, exist_ok=True)
    file = run / _PLAN
    begun = [name for name in (_LAST, *_TEACHERS) if any(run.glob(name))]
    if begun and file.read_text(encoding="utf-8") != plan:
        raise MlcError(
            f"{run} holds checkpoints of another recipe or other classes, or of an older mlc; "
            "name another --run, or remove it"
        )
    _replace(file, lambda new: new.write_text(plan, encoding="utf-8"))


def _replace(file: Path, write: Any) -> None:
    """Write beside the file, then rename: a kill leaves the old one or the new one."""
    new = file.with_name(f"new-{file.name}")
    write(new)
    new.replace(file)
