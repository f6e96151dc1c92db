"""Claims about soft targets: they belong to the pictures the network sees, and survive a kill."""

from dataclasses import replace

import numpy as np
import pytest

from mlc_core.spec import ImageSize, Spec
from mlc_core.training import trainer
from mlc_core.training.augmentation import augment_view
from mlc_core.training.dataset import read_dataset
from mlc_core.training.distillation import SoftTargets
from mlc_core.training.split import split_by_picture
from mlc_core.training.trainer import LabelledBatches, Recipe, train

pytestmark = pytest.mark.long

SIZE = ImageSize(height_px=40, width_px=30)
QUICK = Recipe(epochs=2, batch_size=16, averaging=0.5, teacher_epochs=1, views=2)


class Killed(Exception):
    pass


def teacher():
    """Its probabilities are how bright the picture is, so they tell which one it saw."""

    def infer(images):
        bright = (images.reshape(len(images), -1).mean(axis=1) / 255).astype(np.float32)
        return {"category": np.stack([bright, 1 - bright, *[0 * bright] * 3], axis=1)}

    return infer


@pytest.fixture(scope="module")
def data(drawn):
    return read_dataset(drawn, SIZE)


@pytest.fixture(scope="module")
def spec(data):
    return Spec("drawn", "1", SIZE, {"category": data.classes()["category"]})


@pytest.fixture
def soft(data, tmp_path):
    soft = SoftTargets(tmp_path, views=3, seed=7)
    soft.write(teacher, data.images, lambda _: None)
    return soft


def test_a_view_is_the_same_for_every_batch_and_run(data):
    positions = np.array([3, 200, 41])
    one = augment_view(data.images[positions], 7, 2, positions)
    np.testing.assert_array_equal(
        one[1], augment_view(data.images[200:201], 7, 2, positions[1:2])[0]
    )
    assert (one != augment_view(data.images[positions], 7, 1, positions)).any()
    assert (one != data.images[positions]).any()
    np.testing.assert_array_equal(
        augment_view(data.images[positions], 7, 0, positions), data.images[positions]
    )


def test_targets_are_of_the_pictures_beside_them(soft, data):
    for epoch in range(4):  # of three views
        images, said = soft.batch(data.images, epoch, np.array([5, 17, 100]))
        expected = teacher()(images)["category"]
        np.testing.assert_allclose(said["category"], expected, atol=1e-3)
    first = soft.batch(data.images, 0, np.array([5]))[0]
    np.testing.assert_array_equal(first, data.images[5:6])
    np.testing.assert_array_equal(soft.batch(data.images, 3, np.array([5]))[0], first)
    assert (soft.batch(data.images, 1, np.array([5]))[0] != first).any()


def test_targets_mix_what_the_teacher_says_with_the_label(soft, data, spec):
    recipe = replace(QUICK, teacher_share=0.7)
    images, targets = LabelledBatches(data, spec, recipe, soft)[0]
    order = np.random.default_rng((recipe.seed, 0)).permutation(len(data))[: len(images)]
    classes = spec.heads["category"]
    label = np.eye(len(classes))[[classes.index(each) for each in data.labels["category"][order]]]
    said = teacher()(data.images[order])["category"]
    np.testing.assert_allclose(targets["category"], 0.7 * said + 0.3 * label, atol=1e-3)
    np.testing.assert_allclose(targets["category"].sum(axis=1), 1, atol=1e-3)


def test_a_teachers_pictures_are_mirrored_and_shifted_at_random_and_otherwise_its_own(
    soft, data, spec
):
    images, _ = LabelledBatches(data, spec, QUICK, soft)[0]
    order = np.random.default_rng((QUICK.seed, 0)).permutation(len(data))[: len(images)]
    seen = set()
    for image, shown in zip(data.images[order], images, strict=True):
        ways = [
            (mirrored, top, left)
            for mirrored in (False, True)
            for top in range(-3, 4)
            for left in range(-3, 4)
            if (moved(image[:, ::-1] if mirrored else image, top, left) == shown).all()
        ]
        assert ways
        seen.add(ways[0])
    assert len(seen) > len(images) / 2
    assert {mirrored for mirrored, *_ in seen} == {False, True}


def moved(image, top, left):
    """The image `top` pixels further up and `left` further left; white comes in."""
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), constant_values=255)
    return padded[3 + top : 3 + top + image.shape[0], 3 + left : 3 + left + image.shape[1]]


def test_views_that_are_written_are_not_asked_for_again(data, tmp_path):
    def kill(line):
        raise Killed(line)

    soft = SoftTargets(tmp_path, views=3, seed=7)
    with pytest.raises(Killed, match="view 1 of 3"):
        soft.write(teacher, data.images, kill)
    assert soft.missing() == [1, 2]
    lines = []
    soft.write(teacher, data.images, lines.append)
    assert lines == ["the teacher has seen view 2 of 3", "the teacher has seen view 3 of 3"]

    def no_teacher():
        raise AssertionError

    soft.write(no_teacher, data.images, lines.append)
    assert len(lines) == 2


def test_a_run_with_a_teacher_resumes_at_every_stage(data, spec, tmp_path, monkeypatch):
    split = split_by_picture(data.ids.tolist(), data.images, seed=7)
    asked = []
    monkeypatch.setattr(trainer, "_teacher", lambda *_: asked.append(1) or teacher())
    for killed_at in ("view 1 of 2", "view 2 of 2", "epoch 1/2"):

        def kill(line, killed_at=killed_at):
            if killed_at in line:
                raise Killed(line)

        with pytest.raises(Killed):
            train(data, split, spec, QUICK, tmp_path, kill)
    lines = []
    training = train(data, split, spec, QUICK, tmp_path, lines.append)
    assert len(asked) == 2
    assert lines[0] == "continuing after epoch 1"
    assert len(training.history) == 2
    train(data, split, spec, QUICK, tmp_path, lines.append)
    assert len(asked) == 2


def test_soft_targets_of_another_recipe_are_refused(data, spec, tmp_path, monkeypatch):
    split = split_by_picture(data.ids.tolist(), data.images, seed=7)
    monkeypatch.setattr(trainer, "_teacher", lambda *_: teacher())

    def kill(line):
        raise Killed(line)

    with pytest.raises(Killed):
        train(data, split, spec, QUICK, tmp_path, kill)
    with pytest.raises(trainer.MlcError, match="checkpoints of another recipe"):
        train(data, split, spec, replace(QUICK, views=3), tmp_path, kill)


def test_a_teacher_without_its_packages_says_what_to_install(data, spec, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    split = split_by_picture(data.ids.tolist(), data.images, seed=7)
    with pytest.raises(trainer.MlcError, match=r"pip install -e '\.\[teacher\]'"):
        train(data, split, spec, QUICK, tmp_path, lambda _: None)


def test_the_recipe_of_the_model_that_ships_can_be_varied():
    recipe = Recipe.taught(epochs=3)
    assert (recipe.epochs, recipe.teacher_epochs, recipe.label_smoothing) == (3, 7, 0.0)
    assert Recipe().teacher_epochs == 0
