"""The network: convolutions that all heads share, then a branch for each head.

It is pure Keras 3 and runs on any backend. It does not know data, training or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import keras
from keras import layers

from mlc_core.errors import MlcError
from mlc_core.spec import HIERARCHY, Spec


class MultiHeadNetwork:
    """Builds the network of a spec, for any non-empty subset of the heads.

    The branch of a head is the method `<head>_branch`. It takes the features of the last two stages
    and the number of classes, and returns probabilities (N, classes).

    Four strided convolutions halve the picture. Each costs a quarter of a convolution followed by
    pooling. From the second halving on, residual convolutions follow, more of them where they cost
    less. There are only convolutions
    and ReLU, and every batch normalisation follows a convolution or dense layer, so that a runtime
    can fold it into the weights.
    """

    STEM = 24
    STAGES = (32, 64, 144)  # channels after each further halving
    RESIDUALS = (1, 2, 2)  # residual convolutions of each of these stages
    HIDDEN = 128  # units of a branch's hidden layer
    WEIGHT_INIT = "he_normal"

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def build_model(self) -> Any:
        """Connect input, shared layers and branches.

        Returns:
            keras.Model from uint8 images (N, height_px, width_px, 3) to a dict of head -> float32
            probabilities (N, classes), not compiled.

        Raises:
            MlcError: a head has no branch.
        """
        branches = {head: self._branch(head) for head in self.spec.heads}
        size = self.spec.image
        images = layers.Input((size.height_px, size.width_px, 3), dtype="uint8", name="images")
        scaled = layers.Rescaling(1 / 255, name="scale")(images)
        early, late = self.shared_layers(scaled)
        outputs = {
            head: branch(early, late, len(self.spec.heads[head]))
            for head, branch in branches.items()
        }
        return keras.Model(images, outputs, name=self.spec.name)

    def shared_layers(self, scaled: Any) -> tuple[Any, Any]:
        """The convolutions that all heads share.

        Args:
            scaled: (N, height, width, 3) in 0 to 1.

        Returns:
            Features of the stage before the last, (N, height / 8, width / 8, STAGES[-2]), and of
            the last, (N, height / 16, width / 16, STAGES[-1]), sizes rounded up.
        """
        features = [self._convolve(scaled, self.STEM, 2, "stem")]
        stages = zip(self.STAGES, self.RESIDUALS, strict=True)
        for number, (channels, residuals) in enumerate(stages, start=1):
            stage = self._convolve(features[-1], channels, 2, f"stage_{number}")
            for each in range(1, residuals + 1):
                refined = self._convolve(stage, channels, 1, f"stage_{number}_residual_{each}")
                stage = layers.Add(name=f"stage_{number}_sum_{each}")([stage, refined])
            features.append(stage)
        return features[-2], features[-1]

    def color_branch(self, early: Any, late: Any, classes: int) -> Any:
        """Small patches and the whole garment both tell its colour, so it pools both stages."""
        pooled = layers.Concatenate(name="color_pools")(
            [
                layers.GlobalAveragePooling2D(name="color_early_pool")(early),
                layers.GlobalMaxPooling2D(name="color_early_peak")(early),
                layers.GlobalAveragePooling2D(name="color_late_pool")(late),
            ]
        )
        return self._classify(pooled, classes, "color", dropout=0.3)

    def master_category_branch(self, early: Any, late: Any, classes: int) -> Any:  # noqa: ARG002
        """What is in the photo tells its class, not where it is: the pool drops the layout."""
        pooled = layers.GlobalAveragePooling2D(name="master_category_pool")(late)
        return self._classify(pooled, classes, "master_category", dropout=0.3)

    def sub_category_branch(self, early: Any, late: Any, classes: int) -> Any:  # noqa: ARG002
        """As master_category_branch, for more classes."""
        pooled = layers.GlobalAveragePooling2D(name="sub_category_pool")(late)
        return self._classify(pooled, classes, "sub_category", dropout=0.3)

    def category_branch(self, early: Any, late: Any, classes: int) -> Any:  # noqa: ARG002
        """The place of a sleeve or a strap tells the category, so this branch keeps the layout."""
        flat = layers.Flatten(name="category_layout")(late)
        flat = layers.Dropout(0.3, name="category_layout_dropout")(flat)
        return self._classify(flat, classes, "category", dropout=0.3)

    def _branch(self, head: str) -> Callable[[Any, Any, int], Any]:
        try:
            return getattr(self, f"{head}_branch")  # type: ignore[no-any-return]
        except AttributeError:
            raise MlcError(
                f"the network has no branch for the head {head!r}; "
                f"add the method {head}_branch(early, late, classes) to {type(self).__name__}"
            ) from None

    def _convolve(self, features: Any, channels: int, strides: int, name: str) -> Any:
        features = layers.Conv2D(
            channels,
            3,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_initializer=self.WEIGHT_INIT,
            name=f"{name}_conv",
        )(features)
        features = layers.BatchNormalization(name=f"{name}_norm")(features)
        return layers.Activation("relu", name=f"{name}_relu")(features)

    def _classify(self, features: Any, classes: int, head: str, dropout: float) -> Any:
        hidden = layers.Dense(
            self.HIDDEN, use_bias=False, kernel_initializer=self.WEIGHT_INIT, name=f"{head}_dense"
        )(features)
        hidden = layers.BatchNormalization(name=f"{head}_norm")(hidden)
        hidden = layers.Activation("relu", name=f"{head}_relu")(hidden)
        hidden = layers.Dropout(dropout, name=f"{head}_dropout")(hidden)
        return layers.Dense(classes, activation="softmax", dtype="float32", name=head)(hidden)


def features_of(network: Any, spec: Spec) -> Any:
    """What a built network knows of a photo, for an embedding: (N, features).

    The hidden layer of each branch but the most general, which the others imply, and pools of the
    last two stages, which tell more of texture and colour; each scaled to length 1, the pools to 2.
    """
    heads = [head for head in spec.heads if head != HIERARCHY[0]] or list(spec.heads)
    early, late = (
        network.get_layer(f"stage_{number}_sum_{residuals}").output
        for number, residuals in list(enumerate(MultiHeadNetwork.RESIDUALS, start=1))[-2:]
    )
    pools = layers.Concatenate()(
        [
            layers.GlobalAveragePooling2D()(early),
            layers.GlobalMaxPooling2D()(early),
            layers.GlobalAveragePooling2D()(late),
        ]
    )
    parts = [network.get_layer(f"{head}_relu").output for head in heads]
    units = [layers.UnitNormalization()(part) for part in (*parts, pools)]
    return layers.Concatenate(name="features")([*units[:-1], layers.Rescaling(2.0)(units[-1])])


def multiply_adds(model: Any) -> int:
    """Multiply-adds of one image in convolutions and dense layers; the rest is negligible."""
    return sum(_multiply_adds(model))


def _multiply_adds(model: Any) -> Iterator[int]:
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            _, height, width, _ = layer.output.shape
            yield height * width * prod(layer.kernel.shape)
        elif isinstance(layer, layers.Dense):
            yield prod(layer.kernel.shape)
