"""The interface of all engines. It imports no runtime."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mlc_core.errors import ArtifactError
from mlc_core.spec import Spec

EngineName = Literal["onnxruntime", "tensorflow", "emulated"]
Precision = Literal["float32", "int8", "bfloat16"]

Images = NDArray[np.uint8]  # (N, H, W, 3), RGB
# Head -> (N, classes), each row sums to 1; and EMBEDDING -> (N, dimensions) if the model has one.
Probabilities = dict[str, NDArray[np.float32]]


class Engine(Protocol):
    """A loaded model. Threads may call it at the same time, one for each batch in flight."""

    def infer(self, images: Images) -> Probabilities:
        """Run the network on images of exactly the size that its spec states."""
        ...


def check_outputs(engine: Engine, spec: Spec) -> None:
    """Infer one image and compare the outputs with the spec.

    Raises:
        ArtifactError: the network does not take such an image, or has other outputs.
    """
    image = np.full((1, spec.image.height_px, spec.image.width_px, 3), 255, np.uint8)
    try:
        probabilities = engine.infer(image)
    except Exception as error:  # each runtime has errors of its own
        raise ArtifactError(f"the network does not take {spec.image} images: {error}") from error
    found = {output: rows.shape[1] for output, rows in probabilities.items()}
    if found != spec.outputs:
        raise ArtifactError(f"the network has outputs {found}, its spec.json says {spec.outputs}")
