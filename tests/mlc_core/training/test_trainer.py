"""Training: it learns, survives a kill, stops in time, and varies pictures but not labels."""

import json
import shutil
import zipfile
from dataclasses import replace

import keras
import numpy as np
import pytest

from mlc_core.errors import DataSetError, MlcError
from mlc_core.spec import ImageSize, Spec
from mlc_core.training.augmentation import augment
from mlc_core.training.dataset import read_dataset
from mlc_core.training.split import Split, split_by_picture
from mlc_core.training.trainer import LabelledBatches, Recipe, settle_norms, train
from samples.garments import COLORS, draw_garment

pytestmark = pytest.mark.long

SIZE = ImageSize(height_px=40, width_px=30)
QUICK = Recipe(
    epochs=2, batch_size=32, averaging=0.5, learning_rate=3e-3, loss_weights={"category": 2.0}
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
def resumed(killed, data, split, one_head):
    lines = []
    training = train(data, split, one_head, QUICK, killed[0], lines.append)
    return training, lines


def test_a_run_that_began_on_pytorch_goes_on_here(killed, data, split, one_head, tmp_path):
    run = shutil.copytree(killed[0], tmp_path / "run")
    for name in ("last.keras", "best.keras"):
        with zipfile.ZipFile(killed[0] / name) as here, zipfile.ZipFile(run / name, "w") as there:
            for member in here.namelist():
                content = here.read(member)
                if member == "config.json":  # as Keras writes it there
                    config = json.loads(content)
                    optimizer = config["compile_config"]["optimizer"]
                    optimizer["module"] = "keras.src.backend.torch.optimizers.torch_adamw"
                    optimizer["registered_name"] = "AdamW"
                    content = json.dumps(config).encode()
                there.writestr(member, content)
    assert len(train(data, split, one_head, QUICK, run, lambda _: None).history) == 2


def test_it_learns_every_head(data, split, spec, tmp_path):
    recipe = Recipe(epochs=8, batch_size=16, averaging=0.9, learning_rate=3e-3)
    lines = []
    training = train(data, split, spec, recipe, tmp_path / "run", lines.append)
    probabilities = training.model.predict_on_batch(data.images[split.test])
    for head, floor in {"color": 0.25, "master_category": 0.7, "category": 0.5}.items():
        guesses = np.array(spec.heads[head])[probabilities[head].argmax(axis=1)]
        assert (guesses == data.labels[head][split.test]).mean() > floor
    assert len(training.history) == 8
    assert lines[0].startswith("epoch 1/8: loss ")
    assert training.model.dtype_policy.name == "float32"


def test_a_killed_run_loses_no_finished_epoch(killed, resumed):
    training, lines = resumed
    assert lines[0] == "continuing after epoch 1"
    assert len(lines) == 2
    assert training.history[:1] == killed[1]
    assert len(training.history) == 2


def test_a_finished_run_is_not_trained_again(killed, resumed, data, split, one_head):
    again = train(data, split, one_head, QUICK, killed[0], lambda _: None)
    assert again.history == resumed[0].history
    for one, other in zip(resumed[0].model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_checkpoints_of_another_recipe_are_refused(killed, data, split, one_head, spec):
    for other_spec, recipe in ((one_head, replace(QUICK, epochs=5)), (spec, QUICK)):
        with pytest.raises(MlcError, match="another recipe or other classes"):
            train(data, split, other_spec, recipe, killed[0], lambda _: None)


def test_it_stops_when_nothing_improves(data, split, one_head, tmp_path):
    recipe = Recipe(epochs=9, batch_size=64, learning_rate=0.0, averaging=0.5, patience_epochs=1)
    lines = []
    training = train(data, split, one_head, recipe, tmp_path, lines.append)
    assert len(training.history) < 9
    assert lines[-1] == "no better for 1 epochs, stopping"


def test_a_head_is_trained_with_its_weight(killed):
    checkpoint = keras.saving.load_model(killed[0] / "last.keras")
    assert checkpoint.get_compile_config()["loss_weights"] == {"category": 2.0}


def test_norms_are_settled_on_the_images_as_they_are():
    images = np.random.default_rng(0).integers(0, 256, (512, 4, 4, 3), np.uint8)
    model = keras.Sequential(
        [
            keras.Input((4, 4, 3), dtype="uint8"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Dropout(0.5),
            keras.layers.BatchNormalization(momentum=0.97),
        ]
    )
    settle_norms(model, images, seed=0)
    norm, dropout = model.layers[-1], model.layers[-2]
    scaled = images.reshape(-1, 3) / 255
    np.testing.assert_allclose(norm.moving_mean, scaled.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(norm.moving_variance, scaled.var(axis=0), rtol=1e-3)
    assert (norm.momentum, dropout.rate) == (0.97, 0.5)


def test_an_empty_part_is_refused(data, split, spec, tmp_path):
    nothing = np.array([], np.intp)
    with pytest.raises(DataSetError, match="empty"):
        train(data, Split(split.train, nothing, split.test), spec, QUICK, tmp_path)


def test_batches_cover_an_epoch_once_with_labels_beside_their_images(data, spec):
    batches = LabelledBatches(data, spec, QUICK, training=False)
    images = np.concatenate([batches[at][0] for at in range(len(batches))])
    np.testing.assert_array_equal(images, data.images)
    for head, classes in spec.heads.items():
        targets = np.concatenate([batches[at][1][head] for at in range(len(batches))])
        assert [classes[at] for at in targets.argmax(axis=1)] == data.labels[head].tolist()


def test_a_batch_depends_on_seed_epoch_and_number_alone(data, spec):
    one, other = (LabelledBatches(data, spec, QUICK, training=True) for _ in range(2))
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
