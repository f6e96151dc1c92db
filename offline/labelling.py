"""Labels the photos of one part after the other, with the code that serves. Ray Data runs it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from mlc_core.artifact import load_artifact
from mlc_core.engines.engine import Precision
from mlc_core.engines.loading import load_engine
from mlc_core.errors import PhotoFault
from mlc_core.labels import Choice, Labeller
from mlc_core.photo import decode
from mlc_core.sources.files import Unreadable
from mlc_core.spec import EMBEDDING
from offline.manifest import ID, PART, PHOTO
from offline.output import Output
from offline.reading import Contents, Photos
from offline.rows import Columns, Failure, Format, JsonLines, Labelled, Photo

_BATCH = 256


class Part(NamedTuple):
    """What became of a part.

    Attributes:
        began: when its photos were first read, in seconds since 1970 by the worker's clock.
    """

    photos: int
    failed: int
    began: float
    ended: float


class Work(NamedTuple):
    """What every worker needs to know.

    Attributes:
        root: the directory or zip of the photos.
        model: the files of the artifact, contents by name; in Ray's object store for workers.
    """

    root: Path
    output: Output
    file_format: Format
    precision: Precision
    choice: Choice
    model: Any


class Labelling:
    """Reads, decodes, infers, labels and writes parts. A process has one, and a core.

    Threads call it at the same time: while Ray hands over one part, another one is in work.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        with tempfile.TemporaryDirectory() as directory:
            for name, contents in ray.get(work.model).items():
                (Path(directory) / name).write_bytes(contents)
            artifact = load_artifact(directory)
            self._engine = load_engine("onnxruntime", artifact, precision=work.precision)
        self._spec = artifact.spec
        self._labeller = Labeller(artifact.spec)
        self._photos = Photos(work.root)

    def __call__(self, part: pa.Table) -> pa.Table:
        """Label the photos of a part and commit it.

        Returns:
            One row: a Part.
        """
        began = time.time()
        number = part[PART][0].as_py()
        photos = [
            Photo(*each) for each in zip(part[ID].to_pylist(), part[PHOTO].to_pylist(), strict=True)
        ]
        rows = self._rows()
        failures: list[Failure] = []
        waiting: list[Photo] = []
        images: list[NDArray[np.uint8]] = []
        attempt = self._work.output.attempt(number, len(photos))
        names = [photo.photo for at, photo in enumerate(photos) if at not in attempt.skipped]
        contents = self._photos.read(names, ahead=not attempt.is_careful)
        for at, photo in enumerate(photos):
            image = attempt.skipped.get(at) or attempt.guard(at, lambda: self._decoded(contents))
            if isinstance(image, str):
                failures.append(Failure(*photo, image))
                continue
            waiting.append(photo)
            images.append(image)
            if len(images) == _BATCH:
                rows.add(self._label(waiting, images))
                waiting, images = [], []
        if images:
            rows.add(self._label(waiting, images))
        self._work.output.commit(number, rows.contents(), failures)
        attempt.complete()
        done = Part(len(photos), len(failures), began, time.time())
        return pa.Table.from_pylist([done._asdict()])

    def _rows(self) -> JsonLines | Columns:
        if self._work.file_format == "jsonl":
            return JsonLines()
        return Columns(self._spec, has_embeddings=self._work.choice.embedding)

    def _decoded(self, contents: Iterator[Contents]) -> NDArray[np.uint8] | str:
        """The image of the next photo, or why there is none."""
        photo = next(contents)
        if isinstance(photo, Unreadable):
            return f"{photo.reason}: {photo}"
        try:
            return decode(photo, self._spec.image)
        except PhotoFault as fault:
            return str(fault)
        except MemoryError:
            return "decoding it takes more memory than there is"

    def _label(self, photos: list[Photo], images: list[NDArray[np.uint8]]) -> Labelled:
        batch = np.stack(images)  # (N, height_px, width_px, 3)
        outputs = self._engine.infer(batch)
        choices = [self._work.choice] * len(photos)
        answers = self._labeller.answers(outputs, choices, images=batch)
        vectors = outputs[EMBEDDING] if self._work.choice.embedding else None
        return Labelled(photos, answers, vectors)
