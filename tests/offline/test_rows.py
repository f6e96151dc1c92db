"""Claims about rows: they say what the service answers."""

import io
import json

import numpy as np
import pytest
from pyarrow import parquet

from mlc_core.artifact import load_artifact
from mlc_core.engines.loading import load_engine
from mlc_core.labels import Choice, Labeller
from mlc_core.photo import decode
from mlc_core.spec import EMBEDDING
from offline.rows import (
    Columns,
    Failure,
    JsonLines,
    Labelled,
    Photo,
    count_rows,
    failures_as_lines,
)
from samples.photos import small_photos

PHOTOS = [Photo("1", "1.jpg"), Photo('é"\\', "https://shop.example/2.jpg")]


@pytest.fixture(scope="module")
def answered(shipped_model):
    """Spec, answers and embeddings of two photos."""
    artifact = load_artifact(shipped_model)
    engine = load_engine("onnxruntime", artifact, precision="int8")
    images = np.stack([decode(photo, artifact.spec.image) for photo in small_photos(2)])
    outputs = engine.infer(images)
    answers = Labeller(artifact.spec).answers(outputs, [Choice(embedding=True)] * 2)
    return artifact.spec, answers, outputs[EMBEDDING]


def test_a_line_is_the_answer_of_the_service_with_id_and_photo(answered, tmp_path):
    _, answers, vectors = answered
    rows = JsonLines()
    rows.add(Labelled(PHOTOS, answers, vectors))
    lines = rows.contents().decode().splitlines()
    for line, photo, answer in zip(lines, PHOTOS, answers, strict=True):
        assert json.loads(line) == photo._asdict() | json.loads(answer)
    file = tmp_path / "labels.jsonl"
    file.write_bytes(rows.contents())
    assert count_rows(file) == 2


def test_parquet_has_the_same_labels_in_columns(answered, tmp_path):
    spec, answers, vectors = answered
    rows = Columns(spec, has_embeddings=True)
    rows.add(Labelled(PHOTOS, answers, vectors))
    table = parquet.read_table(io.BytesIO(rows.contents()))
    for row, photo, answer, vector in zip(table.to_pylist(), PHOTOS, answers, vectors, strict=True):
        assert (row["id"], row["photo"]) == photo
        fields = json.loads(answer)
        assert row["model_version"] == fields["model"]["version"]
        for head, label in fields["labels"].items():
            assert row[head] == label["label"]
            assert row[f"{head}_confidence"] == pytest.approx(label["confidence"])
        assert row["embedding"] == pytest.approx(vector.tolist())
    assert table.schema.metadata[b"embedding_digest"].decode() == spec.embedding.digest
    file = tmp_path / "labels.parquet"
    file.write_bytes(rows.contents())
    assert count_rows(file) == 2


def test_parquet_that_the_disk_lost_a_page_of_is_not_counted(answered, tmp_path):
    rows = Columns(answered[0], has_embeddings=True)
    rows.add(Labelled(PHOTOS, *answered[1:]))
    contents = rows.contents()
    at = contents.index(answered[2].tobytes()[:64])
    file = tmp_path / "labels.parquet"
    file.write_bytes(contents[:at] + bytes(64) + contents[at + 64 :])
    with pytest.raises(OSError, match="CRC"):
        count_rows(file)


def test_a_part_without_labels_is_a_file_without_rows(answered):
    rows = Columns(answered[0], has_embeddings=False)
    assert parquet.read_table(io.BytesIO(rows.contents())).num_rows == 0
    assert JsonLines().contents() == b""


def test_a_failure_is_one_line_whatever_its_name_is():
    line = failures_as_lines([Failure("a\nb", "\udcff.jpg", "broken")])
    assert line.count(b"\n") == 1
    assert json.loads(line)["reason"] == "broken"
