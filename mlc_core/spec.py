"""The spec, which training fixes: image size, heads, classes, and what their labels can promise."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from mlc_core.errors import ArtifactError

# The heads in the order of answers, each with its column in a data set. The network's branch for a
# head is the method MultiHeadNetwork.<head>_branch.
COLUMNS = {
    "color": "baseColour",
    "master_category": "masterCategory",
    "sub_category": "subCategory",
    "category": "articleType",
}
HEADS = tuple(COLUMNS)
# The network's output beside the heads: float32 (N, dimensions), each row of length 1.
EMBEDDING = "embedding"
# The heads whose labels are one path, from the general class to the special one.
HIERARCHY = ("master_category", "sub_category", "category")


@dataclass(frozen=True)
class ImageSize:
    """The size of the images that the network takes. Every image is exactly this large."""

    height_px: int
    width_px: int

    def __post_init__(self) -> None:
        if self.height_px < 1 or self.width_px < 1:
            raise ArtifactError(f"image size must be positive, not {self}")

    def __str__(self) -> str:
        return f"{self.width_px}×{self.height_px}"


# The size of the photos in Fashion Product Images (Small); training uses it by default.
DEFAULT_IMAGE_SIZE = ImageSize(height_px=80, width_px=60)


@dataclass(frozen=True)
class Embedding:
    """What the network says of a photo beside its labels: a vector, near those of similar photos.

    Attributes:
        digest: SHA-256 of the network's weights. Only embeddings of one network can be compared.
    """

    dimensions: int
    digest: str

    def __post_init__(self) -> None:
        if self.dimensions < 2:
            raise ArtifactError(f"an embedding needs two or more dimensions, not {self.dimensions}")


@dataclass(frozen=True)
class Spec:
    """A model's contract.

    Artifacts of older versions lack temperatures, taxonomy, thresholds and an embedding.

    Attributes:
        heads: head name -> its classes, in the order of the network's output.
        temperatures: head -> what its logits were divided by on export, so that its confidence is
            the share of its labels that are right.
        taxonomy: the paths that occur in the labels of the training: a class for each head of
            `hierarchy`. Empty if unknown.
        thresholds: head -> precision -> the confidence from which on the head's labels have that
            precision; None if no confidence promises it.
        max_entropy: of the probabilities of all heads of `hierarchy` together (of all heads, if it
            has none), in nats. A photo above it is unlike those of the training, and promised no
            precision. None if every photo is promised one.
    """

    name: str
    version: str
    image: ImageSize
    heads: Mapping[str, tuple[str, ...]]
    temperatures: Mapping[str, float] = field(default_factory=dict)
    taxonomy: tuple[tuple[str, ...], ...] = ()
    thresholds: Mapping[str, Mapping[float, float | None]] = field(default_factory=dict)
    max_entropy: float | None = None
    embedding: Embedding | None = None

    def __post_init__(self) -> None:
        if not self.heads:
            raise ArtifactError("a spec needs at least one head")
        for head, classes in self.heads.items():
            if head not in HEADS:
                raise ArtifactError(f"unknown head {head!r}; heads are {', '.join(HEADS)}")
            if len(set(classes)) != len(classes) or len(classes) < 2:
                raise ArtifactError(f"head {head!r} needs two or more classes, each named once")
        in_order = {head: tuple(self.heads[head]) for head in HEADS if head in self.heads}
        object.__setattr__(self, "heads", MappingProxyType(in_order))
        for path in self.taxonomy:
            if len(path) != len(self.hierarchy) or not all(
                each in self.heads[head] for head, each in zip(self.hierarchy, path, strict=True)
            ):
                raise ArtifactError(
                    f"{list(path)} is no path of the taxonomy: it needs a class each of "
                    f"{', '.join(self.hierarchy)}"
                )
        for head, values in (*self.temperatures.items(), *self.thresholds.items()):
            if head not in self.heads:
                raise ArtifactError(
                    f"no head {head!r}, which has the temperature or thresholds {values}"
                )

    @property
    def outputs(self) -> dict[str, int]:
        """The network's outputs: each head and, if it has one, the embedding -> columns."""
        columns = {head: len(classes) for head, classes in self.heads.items()}
        return (
            columns if self.embedding is None else columns | {EMBEDDING: self.embedding.dimensions}
        )

    @property
    def hierarchy(self) -> tuple[str, ...]:
        """The heads of HIERARCHY that the model has."""
        return tuple(head for head in HIERARCHY if head in self.heads)

    def part(self, heads: Iterable[str]) -> Spec:
        """The spec of some of the heads."""
        kept = {head: classes for head, classes in self.heads.items() if head in set(heads)}
        at = [n for n, head in enumerate(self.hierarchy) if head in kept]
        paths = {tuple(path[n] for n in at) for path in self.taxonomy} if len(at) > 1 else ()
        return replace(
            self,
            heads=kept,
            temperatures={h: t for h, t in self.temperatures.items() if h in kept},
            taxonomy=tuple(sorted(paths)),
            thresholds={h: t for h, t in self.thresholds.items() if h in kept},
            max_entropy=self.max_entropy if len(at) == len(self.hierarchy) else None,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Spec.from_json, (self.to_json(),)

    def to_json(self) -> str:
        """The contents of spec.json."""
        fields: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "image": {"height_px": self.image.height_px, "width_px": self.image.width_px},
            "heads": {head: list(classes) for head, classes in self.heads.items()},
        }
        if self.embedding is not None:
            fields["embedding"] = asdict(self.embedding)
        if self.temperatures:
            fields["temperatures"] = dict(self.temperatures)
        if self.thresholds:
            fields["thresholds"] = {head: dict(each) for head, each in self.thresholds.items()}
        if self.max_entropy is not None:
            fields["max_entropy"] = self.max_entropy
        if self.taxonomy:
            fields["taxonomy"] = [list(path) for path in self.taxonomy]
        return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """Read the contents of spec.json.

        Raises:
            ArtifactError: not JSON, or a field is missing or of the wrong kind.
        """
        try:
            fields = json.loads(text)
            return cls(
                name=str(fields["name"]),
                version=str(fields["version"]),
                image=ImageSize(
                    int(fields["image"]["height_px"]), int(fields["image"]["width_px"])
                ),
                heads={str(h): tuple(map(str, c)) for h, c in fields["heads"].items()},
                temperatures={h: float(t) for h, t in fields.get("temperatures", {}).items()},
                taxonomy=tuple(tuple(map(str, path)) for path in fields.get("taxonomy", ())),
                thresholds={
                    head: {float(p): None if t is None else float(t) for p, t in each.items()}
                    for head, each in fields.get("thresholds", {}).items()
                },
                max_entropy=None
                if fields.get("max_entropy") is None
                else float(fields["max_entropy"]),
                embedding=Embedding(
                    int(fields["embedding"]["dimensions"]), str(fields["embedding"]["digest"])
                )
                if fields.get("embedding")
                else None,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"spec.json is not a model spec: {error!r}") from error
