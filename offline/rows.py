"""What a run writes of photos: a row with labels for each, or why there is none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from mlc_core.labels import parse_answer
from mlc_core.spec import Spec

Format = Literal["jsonl", "parquet"]


class Photo(NamedTuple):
    """A row of the source.

    Attributes:
        photo: name of the file in the source, or URL.
    """

    id: str
    photo: str


class Failure(NamedTuple):
    """A photo that has no labels."""

    id: str
    photo: str
    reason: str


class Labelled(NamedTuple):
    """Photos with what the service answers.

    Attributes:
        answers: JSON.
        vectors: the embeddings, (N, dimensions), if they go in.
    """

    photos: Sequence[Photo]
    answers: Sequence[bytes]
    vectors: NDArray[np.float32] | None


class JsonLines:
    """A line for each photo: the fields of the service's answer, after `id` and `photo`."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []

    def add(self, labelled: Labelled) -> None:
        for photo, answer in zip(labelled.photos, labelled.answers, strict=True):
            named = json.dumps(photo._asdict(), ensure_ascii=False)
            self._lines.append(b"%s,%s\n" % (named[:-1].encode(), answer[1:]))

    def contents(self) -> bytes:
        return b"".join(self._lines)


class Columns:
    """Parquet: a column for each head's label and one for its confidence."""

    def __init__(self, spec: Spec, *, has_embeddings: bool) -> None:
        text = [("id", pa.string()), ("photo", pa.string())]
        model = [("model", pa.string()), ("model_version", pa.string())]
        heads = [
            field
            for head in spec.heads
            for field in ((head, pa.string()), (f"{head}_confidence", pa.float32()))
        ]
        fields = [*text, *model, *heads]
        metadata = {}
        if has_embeddings and spec.embedding is not None:
            fields.append(("embedding", pa.list_(pa.float32(), spec.embedding.dimensions)))
            metadata["embedding_digest"] = spec.embedding.digest
        self._schema = pa.schema(fields, metadata)
        self._batches: list[pa.RecordBatch] = []

    def add(self, labelled: Labelled) -> None:
        photos, answers, vectors = labelled
        rows = [_flat(photo, answer) for photo, answer in zip(photos, answers, strict=True)]
        names = self._schema.names if vectors is None else self._schema.names[:-1]
        arrays = [
            pa.array([row[name] for row in rows], self._schema.field(name).type) for name in names
        ]
        if vectors is not None:
            flat = pa.array(vectors.ravel())
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]))
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))

    def contents(self) -> bytes:
        sink = pa.BufferOutputStream()
        table = pa.Table.from_batches(self._batches, self._schema)
        parquet.write_table(table, sink, write_page_checksum=True)
        return bytes(sink.getvalue())


def _flat(photo: Photo, answer: bytes) -> dict[str, Any]:
    fields = parse_answer(answer)
    row = {
        "id": photo.id,
        "photo": photo.photo,
        "model": fields["model"]["name"],
        "model_version": fields["model"]["version"],
    }
    for head, label in fields["labels"].items():
        row |= {head: label["label"], f"{head}_confidence": label["confidence"]}
    return row


def failures_as_lines(failures: Iterable[Failure]) -> bytes:
    lines = [json.dumps(each._asdict(), ensure_ascii=True) for each in failures]
    return "".join(f"{line}\n" for line in lines).encode()


def count_rows(file: Path) -> int:
    """The rows of a file that a run has written.

    Raises:
        OSError, ValueError: it can't be read, or its contents are not those that were written.
    """
    if file.suffix == ".parquet":
        with parquet.ParquetFile(file, page_checksum_verification=True) as table:
            return sum(len(batch) for batch in table.iter_batches())
    with file.open("rb") as lines:
        return sum(piece.count(b"\n") for piece in iter(lambda: lines.read(1 << 20), b""))
