"""One directory that holds a trained model, verified before anything in it is used.

`mlc_core.training.export` saves it, `mlc_core.engines` runs it.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlc_core.errors import ArtifactError
from mlc_core.spec import Spec

SPEC, KERAS, ONNX, METRICS = "spec.json", "model.keras", "model.onnx", "metrics.json"
INT8 = "model.int8.onnx"  # optional: quantization refuses a network that loses too much accuracy
TRAINING_IDS = "training_ids.txt.gz"  # optional: older artifacts lack it
SUMS = "SHA256SUMS"
INPUT = "images"  # of the network, in every format


@dataclass(frozen=True)
class Artifact:
    """A trained model whose files have not changed since it was saved.

    Attributes:
        metrics: contents of metrics.json: accuracy of each head, the training and its data.
    """

    path: Path
    spec: Spec
    metrics: Mapping[str, Any]

    @property
    def keras_path(self) -> Path:
        return self.path / KERAS

    @property
    def onnx_path(self) -> Path:
        return self.path / ONNX

    @property
    def int8_path(self) -> Path:
        return self.path / INT8

    def training_ids(self) -> frozenset[str] | None:
        """Ids of the photos that the model was trained or validated on; None if it has no list.

        Raises:
            ArtifactError: the list can't be read.
        """
        file = self.path / TRAINING_IDS
        if not file.exists():
            return None
        ids: frozenset[str] = _named(file, lambda: unpack_ids(_read(file)))
        return ids


def pack_ids(ids: Iterable[str]) -> bytes:
    """The contents of training_ids.txt.gz: sorted ids, one per line. Equal ids give equal bytes."""
    return gzip.compress("".join(f"{each}\n" for each in sorted(ids)).encode(), mtime=0)


def unpack_ids(packed: bytes) -> frozenset[str]:
    """Read the contents of training_ids.txt.gz.

    Raises:
        ValueError: they are not gzip, or not UTF-8.
    """
    try:
        return frozenset(gzip.decompress(packed).decode().split("\n")) - {""}
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"not in gzip: {error}") from error


def load_artifact(path: Path | str) -> Artifact:
    """Verify the artifact at `path` and read its spec and metrics.

    Raises:
        ArtifactError: a file is missing or altered, or spec and metrics name different heads.
    """
    path = Path(path)
    if not path.is_dir():
        raise ArtifactError(f"no model at {path}; train one, or name another directory")
    sums = _read_sums(path)
    contents = {name: _read(path / name) for name in sums}
    for name, digest in sums.items():
        if hashlib.sha256(contents[name]).hexdigest() != digest:
            raise ArtifactError(
                f"{path / name} is not what {SUMS} says it was when the model was saved; "
                "restore the whole directory, or train again"
            )
    spec = _named(path / SPEC, lambda: Spec.from_json(contents[SPEC].decode()))
    metrics = _named(path / METRICS, lambda: json.loads(contents[METRICS]))
    measured = metrics.get("heads") if isinstance(metrics, dict) else None
    if not isinstance(measured, dict) or set(measured) != set(spec.heads):
        raise ArtifactError(
            f"{path / METRICS} does not measure the heads of {SPEC} ({', '.join(spec.heads)}); "
            "the files belong to different models, restore the whole directory"
        )
    return Artifact(path, spec, metrics)


def _read_sums(path: Path) -> dict[str, str]:
    sums = {}
    for line in _read(path / SUMS).decode(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        if not name or Path(name).name != name:
            raise ArtifactError(f"{path / SUMS}: not a checksum and a file name: {line!r}")
        sums[name] = digest
    optional = [name for name in (INT8, TRAINING_IDS) if (path / name).exists()]
    for name in (SPEC, KERAS, ONNX, METRICS, *optional):
        if name not in sums:
            raise ArtifactError(f"{path / SUMS} does not cover {name}; restore it, or train again")
    return sums


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{file} can't be read ({error.strerror}); restore the directory, or train again"
        ) from error


def _named(file: Path, parse: Callable[[], Any]) -> Any:
    try:
        return parse()
    except (ArtifactError, ValueError) as error:
        raise ArtifactError(f"{file}: {error}; restore the directory, or train again") from error
