"""The network: heads, shapes, size. What it learns is training's and evaluation's business."""

import subprocess
import sys
from itertools import combinations

import keras
import numpy as np
import pytest

from mlc_core.errors import MlcError
from mlc_core.spec import HEADS, ImageSize, Spec
from mlc_core.training.network import MultiHeadNetwork, multiply_adds

pytestmark = pytest.mark.long

SUBSETS = [heads for count in range(1, 5) for heads in combinations(HEADS, count)]


def shipped_size() -> Spec:
    counts = {"color": 46, "master_category": 7, "sub_category": 44, "category": 139}
    classes = {head: tuple(map(str, range(count))) for head, count in counts.items()}
    return Spec("fashion", "1", ImageSize(height_px=80, width_px=60), classes)


@pytest.mark.parametrize("heads", SUBSETS, ids="+".join)
def test_any_subset_of_the_heads_makes_a_network(spec, heads):
    part = Spec(spec.name, spec.version, spec.image, {head: spec.heads[head] for head in heads})
    model = MultiHeadNetwork(part).build_model()
    assert {head: output.shape[1:] for head, output in model.output.items()} == {
        head: (len(classes),) for head, classes in part.heads.items()
    }
    assert {output.dtype for output in model.output.values()} == {"float32"}


def test_images_go_in_as_bytes_and_come_out_as_probabilities(spec):
    model = MultiHeadNetwork(spec).build_model()
    assert (model.input.name, model.input.dtype) == ("images", "uint8")
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), np.uint8)
    for head, probabilities in model.predict_on_batch(images).items():
        assert probabilities.shape == (3, len(spec.heads[head]))
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_scaling_is_inside(spec):
    scale = MultiHeadNetwork(spec).build_model().get_layer("scale")
    np.testing.assert_allclose(scale(np.array([[0, 255]], np.uint8)), [[0, 1]], rtol=1e-6)


def test_no_layer_carries_code(spec):
    layers = MultiHeadNetwork(spec).build_model().layers
    assert not any(isinstance(layer, keras.layers.Lambda) for layer in layers)


def test_a_branch_can_be_replaced_without_touching_the_others(spec):
    class Plain(MultiHeadNetwork):
        def category_branch(self, early, late, classes):
            pooled = keras.layers.GlobalAveragePooling2D()(late)
            return keras.layers.Dense(classes, activation="softmax", name="category")(pooled)

    names = {layer.name for layer in Plain(spec).build_model().layers}
    assert "category_dense" not in names
    assert "color_dense" in names


def test_a_head_without_a_branch_is_named_with_the_method_to_add(spec, monkeypatch):
    monkeypatch.delattr(MultiHeadNetwork, "category_branch")
    with pytest.raises(MlcError, match=r"add the method category_branch\(early, late, classes\)"):
        MultiHeadNetwork(spec).build_model()


def test_the_shipped_network_costs_10_to_25_million_multiply_adds():
    model = MultiHeadNetwork(shipped_size()).build_model()
    assert 10e6 <= multiply_adds(model) <= 25e6


def test_the_shipped_network_has_at_most_1_4_million_parameters():
    assert MultiHeadNetwork(shipped_size()).build_model().count_params() <= 1.4e6


def test_multiply_adds_are_those_of_convolutions_and_dense_layers():
    image = keras.Input((8, 6, 3))
    convolved = keras.layers.Conv2D(5, 3, strides=2, padding="same")(image)  # 4 × 3 × (27 × 5)
    flat = keras.layers.Flatten()(convolved)
    model = keras.Model(image, keras.layers.Dense(7)(flat))  # 60 × 7
    assert multiply_adds(model) == 4 * 3 * 27 * 5 + 60 * 7


@pytest.mark.parametrize(
    "module", ["mlc_core", "mlc_core.artifact", "mlc_core.training.dataset", "mlc_core.cli"]
)
def test_importing_what_serves_imports_no_tensorflow(module):
    code = f"import sys, {module}; print([m for m in ('tensorflow', 'keras') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
