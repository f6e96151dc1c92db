"""What a teacher says of the training photos, as targets for the network (Hinton et al. 2015).

The teacher sees a fixed number of varied views of each photo, and the network trains on the same
views, one after the other. So the targets belong to the very pictures that the network sees. The
teacher itself is `mlc_core.training.teacher`, which alone needs PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlc_core.sources.files import Progress
from mlc_core.training.augmentation import augment_view
from mlc_core.training.evaluation import Infer, infer_all

_BLOCK = 4096  # photos varied at a time


class SoftTargets:
    """The teacher's probabilities on disk, a file for each view.

    Args:
        views: how many views there are; view 0 has the photos as they are.
        seed: of the variation.
    """

    def __init__(self, run: Path, views: int, seed: int) -> None:
        self._run, self._views, self._seed = run, views, seed
        self._read: tuple[int, Mapping[str, NDArray[np.float16]]] = (-1, {})

    def missing(self) -> list[int]:
        """The views that are not written yet."""
        return [view for view in range(self._views) if not self._file(view).exists()]

    def write(
        self, teacher: Callable[[], Infer], images: NDArray[np.uint8], report: Progress
    ) -> None:
        """Write the views that are missing; a kill loses at most the one that is being written.

        Args:
            teacher: makes the teacher; called only if a view is missing.
            images: the photos to train on, uint8 (N, height_px, width_px, 3).
        """
        missing = self.missing()
        infer = teacher() if missing else None
        for view in missing:
            parts = []
            for start in range(0, len(images), _BLOCK):
                positions = np.arange(start, min(start + _BLOCK, len(images)))
                parts.append(infer_all(infer, self.images(images, view, positions)))  # type: ignore[arg-type]
            new = self._run / "new-soft-targets.npz"
            said = {
                head: np.concatenate([part[head] for part in parts]).astype(np.float16)
                for head in parts[0]
            }
            np.savez(new, allow_pickle=False, **said)
            new.replace(self._file(view))
            report(f"the teacher has seen view {view + 1} of {self._views}")

    def images(
        self, images: NDArray[np.uint8], view: int, positions: NDArray[np.intp]
    ) -> NDArray[np.uint8]:
        """The photos at `positions` as a view has them."""
        return augment_view(images[positions], self._seed, view, positions)

    def batch(
        self, images: NDArray[np.uint8], epoch: int, positions: NDArray[np.intp]
    ) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.float32]]]:
        """Photos as the epoch's view has them, and the teacher's probabilities, by head.

        Args:
            images: the photos that `write` got.
            epoch: counted from 0; each takes the next view.
            positions: of the photos among `images`.
        """
        view = epoch % self._views
        if self._read[0] != view:
            with np.load(self._file(view)) as file:
                self._read = view, dict(file)
        targets = {head: rows[positions].astype(np.float32) for head, rows in self._read[1].items()}
        return self.images(images, view, positions), targets

    def _file(self, view: int) -> Path:
        return self._run / f"soft-targets-{view}.npz"
