"""Training: it learns from few photos, validates what it saves, survives a kill, stops in time."""

import json
import math
import re
import shutil
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from mlc_core.errors import DataSetError, MlcError
from mlc_core.spec import ImageSize, Spec
from mlc_core.training import trainer
from mlc_core.training.augmentation import augment
from mlc_core.training.dataset import read_dataset
from mlc_core.training.evaluation import accuracies
from mlc_core.training.norms import settle_norms
from mlc_core.training.split import Split, split_by_picture
from mlc_core.training.trainer import LabelledBatches, Recipe, train
from samples.garments import COLORS, draw_garment, write_dataset

pytestmark = pytest.mark.long

SIZE = ImageSize(height_px=40, width_px=30)
QUICK = Recipe(
    epochs=2, batch_size=8, averaging=0.5, learning_rate=3e-3, loss_weights={"category": 2.0}
)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def data(drawn):
    return read_dataset(drawn, SIZE)


@pytest.fixture(scope="module")
def split(data):
    return split_by_picture(data.ids.tolist(), data.images, seed=7)


@pytest.fixture(scope="module")
def spec(data):
    return Spec("drawn", "1", SIZE, data.classes())


@pytest.fixture(scope="module")
def one_head(spec):
    return Spec("drawn", "1", SIZE, {"category": spec.heads["category"]})


@pytest.fixture(scope="module")
def killed(data, split, one_head, tmp_path_factory):
    """A run that was killed after its first epoch, and what was on disk then."""

    def kill(line):
        raise Killed(line)

    run = tmp_path_factory.mktemp("killed")
    with pytest.raises(Killed, match="epoch 1/2"):
        train(data, split, one_head, QUICK, run, kill)
    return run, json.loads((run / "state.json").read_text())


@pytest.fixture(scope="module")
def resumed(killed, data, split, one_head, tmp_path_factory):
    """That run, continued as if the kill had come while the second epoch's files were written.

    The second epoch is made as good as the first.
    """
    history = killed[1]
    run = shutil.copytree(killed[0], tmp_path_factory.mktemp("resumed") / "run")
    (run / "state.json").write_text(json.dumps([*history, {**history[0], "loss": -1.0}]))
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "accuracies", lambda *_: {"category": history[0]["category"]})
        training = train(data, split, one_head, QUICK, run, lines.append)
    return training, lines, run


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run on 400 photos with the default recipe."""
    folder = tmp_path_factory.mktemp("small")
    write_dataset(folder / "drawn", photos_each=10)
    data = read_dataset(folder / "drawn", SIZE)
    split = split_by_picture(data.ids.tolist(), data.images, seed=7)
    spec = Spec("drawn", "1", SIZE, data.classes())
    lines = []
    training = train(data, split, spec, Recipe(), folder / "run", lines.append)
    return SimpleNamespace(
        data=data, split=split, spec=spec, training=training, lines=lines, run=folder / "run"
    )


def test_a_small_set_trains_well_with_the_default_recipe(small):
    test = small.data.take(small.split.test)
    accuracy = accuracies(small.training.model.predict_on_batch, test, small.spec)
    assert min(accuracy.values()) > 0.9, accuracy


def test_validation_is_of_the_network_that_is_saved(killed, small, data, split, one_head):
    run, history = killed
    best = keras.saving.load_model(run / "best.keras")
    measured = accuracies(best.predict_on_batch, data.take(split.validation), one_head)
    assert measured == {"category": history[0]["category"]}
    validation = small.data.take(small.split.validation)
    measured = accuracies(small.training.model.predict_on_batch, validation, small.spec)
    best = max(small.training.history, key=lambda entry: sum(entry[head] for head in measured))
    assert measured == {head: best[head] for head in measured}


def test_every_epoch_is_reported(small):
    number = r"\d+\.\d\d%"
    heads = f"color {number} master_category {number} sub_category {number} category {number}"
    for epoch, line in enumerate(small.lines[: len(small.training.history)], start=1):
        form = rf"epoch {epoch}/30: loss \d+\.\d{{4}}, validation {heads}, \d+ s"
        assert re.fullmatch(form, line)


def test_few_steps_are_averaged_over_fewer(small):
    epochs, full, photos = 30, 30_526, len(small.split.train)
    recipe = Recipe()
    assert recipe.batch_photos(full) == 128
    assert recipe.averaging_over(epochs * full // 128) == 0.998
    steps = epochs * math.ceil(photos / recipe.batch_photos(photos))
    assert 500 < steps < 1000
    momentum = keras.saving.load_model(small.run / "last.keras").optimizer.ema_momentum
    assert momentum == recipe.averaging_over(steps)
    assert 20 < 1 / (1 - momentum) < 100
    assert recipe.averaging_over(1) == 0


def averaged(run):
    """The averaged weights of the last epoch."""
    last = keras.saving.load_model(run / "last.keras")
    raw = [np.array(weights) for weights in last.trainable_weights]
    last.optimizer.finalize_variable_values(last.trainable_variables)
    weights = [np.array(each) for each in last.trainable_weights]
    assert all((one != other).any() for one, other in zip(weights, raw, strict=True))
    return weights


def test_what_is_saved_is_averaged_settled_and_in_float32(killed, data, split):
    best = keras.saving.load_model(killed[0] / "best.keras")
    assert best.dtype_policy.name == "float32"
    assert not best.compiled
    for saved, average in zip(best.trainable_weights, averaged(killed[0]), strict=True):
        np.testing.assert_array_equal(saved, average)
    before = best.get_weights()
    settle_norms(best, data.images[split.train], QUICK.seed)
    for saved, settled in zip(before, best.get_weights(), strict=True):
        np.testing.assert_allclose(saved, settled, rtol=1e-4, atol=1e-6)


def test_of_equally_good_epochs_the_last_is_saved(resumed):
    training, _, run = resumed
    for saved, average in zip(training.model.trainable_weights, averaged(run), strict=True):
        np.testing.assert_array_equal(saved, average)


def test_a_run_that_began_on_pytorch_goes_on_here(killed, data, split, one_head, tmp_path):
    run = shutil.copytree(killed[0], tmp_path / "run")
    last = "last.keras"
    with zipfile.ZipFile(killed[0] / last) as here, zipfile.ZipFile(run / last, "w") as there:
        for member in here.namelist():
            content = here.read(member)
            if member == "config.json":  # as Keras writes it there
                config = json.loads(content)
                optimizer = config["compile_config"]["optimizer"]
                optimizer["module"] = "keras.src.backend.torch.optimizers.torch_adamw"
                optimizer["registered_name"] = "AdamW"
                content = json.dumps(config).encode()
            there.writestr(member, content)
    history = train(data, split, one_head, QUICK, run, lambda _: None).history
    assert history[:1] == killed[1]
    assert len(history) == 2


def test_a_killed_run_loses_no_finished_epoch(killed, resumed):
    training, lines, _ = resumed
    assert lines[0] == "continuing after epoch 1"
    assert len(lines) == 2
    assert training.history[:1] == killed[1]
    assert len(training.history) == 2


def test_an_epoch_whose_files_are_not_complete_is_repeated(resumed):
    training, lines, _ = resumed
    assert lines[1].startswith("epoch 2/2: ")
    assert training.history[1]["loss"] > 0


def test_a_finished_run_is_not_trained_again(resumed, data, split, one_head):
    again = train(data, split, one_head, QUICK, resumed[2], lambda _: None)
    assert again.history == resumed[0].history
    for one, other in zip(resumed[0].model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_checkpoints_of_another_recipe_are_refused(killed, data, split, one_head, spec):
    for other_spec, recipe in ((one_head, replace(QUICK, epochs=5)), (spec, QUICK)):
        with pytest.raises(MlcError, match="another recipe or other classes"):
            train(data, split, other_spec, recipe, killed[0], lambda _: None)


def test_it_stops_when_nothing_improves(small):
    means = [
        np.mean([entry[head] for head in small.spec.heads]) for entry in small.training.history
    ]
    assert small.lines[-1] == "no better for 8 epochs, stopping"
    assert means.index(max(means)) == len(means) - 1 - 8


def test_a_head_is_trained_with_its_weight(killed):
    checkpoint = keras.saving.load_model(killed[0] / "last.keras")
    assert checkpoint.get_compile_config()["loss_weights"] == {"category": 2.0}


def test_an_empty_part_is_refused(data, split, spec, tmp_path):
    nothing = np.array([], np.intp)
    with pytest.raises(DataSetError, match="empty"):
        train(data, Split(split.train, nothing, split.test), spec, QUICK, tmp_path)


def test_batches_cover_an_epoch_once_with_labels_beside_their_images(data, spec, monkeypatch):
    monkeypatch.setattr(trainer, "augment", lambda images, rng: images)
    batches = LabelledBatches(data, spec, QUICK)
    read = [batches[at] for at in range(len(batches))]
    images = np.concatenate([images for images, _ in read])
    # No two of the drawn photos are the same.
    at = {image.tobytes(): number for number, image in enumerate(data.images)}
    order = [at[image.tobytes()] for image in images]
    assert sorted(order) == list(range(len(data)))
    for head, classes in spec.heads.items():
        targets = np.concatenate([targets[head] for _, targets in read])
        assert [classes[at] for at in targets.argmax(axis=1)] == data.labels[head][order].tolist()


def test_a_batch_depends_on_seed_epoch_and_number_alone(data, spec):
    one, other = (LabelledBatches(data, spec, QUICK) for _ in range(2))
    np.testing.assert_array_equal(one[3][0], other[3][0])
    other.epoch = 1
    assert (one[3][0] != other[3][0]).any()


@pytest.mark.parametrize("color", COLORS)
def test_augmentation_keeps_the_colour(color):
    image = np.asarray(draw_garment("Tshirts", color))
    inside = (image.astype(int) - COLORS[color]).__abs__().max(axis=2) < 40
    rng = np.random.default_rng(0)
    for varied in augment(np.repeat(image[None], 12, axis=0), rng):
        # Light may change by a tenth and a little; no channel against the others.
        middle = varied[34:46, 26:34].reshape(-1, 3).mean(axis=0)
        known = image[inside].mean(axis=0)
        gain = (middle @ known) / (known @ known)
        np.testing.assert_allclose(middle, known * gain, atol=16)


def test_augmentation_varies_each_image_and_keeps_its_size():
    image = np.asarray(draw_garment("Handbags", "Red"))
    varied = augment(np.repeat(image[None], 8, axis=0), np.random.default_rng(0))
    assert varied.shape == (8, 80, 60, 3)
    assert varied.dtype == np.uint8
    assert len({one.tobytes() for one in varied}) == 8


def test_what_comes_in_from_outside_is_white():
    black = np.zeros((40, 80, 60, 3), np.uint8)
    rng = np.random.default_rng(1)
    levels = augment(black, rng)
    assert levels[:, 40, 30].max() <= 3
    assert levels[:, 0, 0].max() > 200
