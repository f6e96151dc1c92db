"""Writes the JSON that answers a photo, from probabilities; parses and merges such answers.

Replicas pass an answer on as bytes and read none of its keys.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlc_core.engines.engine import Images, Probabilities
from mlc_core.errors import ChoiceRefused, EmbeddingUnknown, PrecisionUnknown, ProfileUnknown
from mlc_core.profiles import HIDDEN, Profile
from mlc_core.spec import EMBEDDING, Spec
from mlc_core.taxonomy import Named, Taxonomy

MAX_TOP_K = 20


class Choice(NamedTuple):
    """How the labels of one photo are chosen.

    Attributes:
        top_k: classes that a head names, 1 to MAX_TOP_K: the label and top_k - 1 alternatives.
        min_confidence: a head with a lower confidence answers null instead of a label, and its
            best class comes first among the alternatives.
        precision: a head whose labels of this confidence are not right so often answers null in the
            same way, and so do all heads if the photo is blank, noise or unlike those of the
            training; 0 asks for nothing. Between two precisions of the spec, the higher one counts.
        consistent: whether the heads of the hierarchy name a path of the taxonomy, if the model
            has one. If not, each head names its own most probable class.
        embedding: whether the answer has the embedding too.
        profile: name of the profile whose words are the classes; "" for the model's own.
        probabilities: whether the answer has the probability of each class, in the order of the
            spec, and no labels: little-endian float32 in base64 for each head.
    """

    top_k: int = 1
    min_confidence: float = 0.0
    precision: float = 0.0
    consistent: bool = True
    embedding: bool = False
    profile: str = ""
    probabilities: bool = False


_PLAIN = Choice()
_NEVER = 2.0  # above every confidence
# Of 38,072 photos of products, the palest spans 41 of 256 levels in one channel.
_BLANK_LEVELS = 24
# Of pixels side by side or one above the other: 0.46 and 0.55 in the two lowest of these photos.
# Noise has up to 0.26, whatever its size was, and pages of text that were larger up to 0.46.
_LEAST_CORRELATION = 0.5


class Labeller:
    """Writes the answers of one model. It encodes the class names once, not for each photo."""

    def __init__(self, spec: Spec, profiles: Sequence[Profile] = ()) -> None:
        self._spec = spec
        self._profiles = {each.name: (each, Labeller(each.spec)) for each in profiles}
        self._taxonomy = Taxonomy(spec)
        self._model = json.dumps({"name": spec.name, "version": spec.version})
        self._classes = {
            head: [json.dumps(name or None, ensure_ascii=False) for name in classes]
            for head, classes in spec.heads.items()
        }
        # The number of the class that is never named, where a profile hides some.
        self._hidden = {
            head: classes.index(HIDDEN) if HIDDEN in classes else None
            for head, classes in spec.heads.items()
        }
        self._hides = any(number is not None for number in self._hidden.values())
        # What most clients ask for, as templates of one confidence each.
        self._plain = {
            head: [
                f'"{head}":{{"label":{name.replace("%", "%%")},'
                '"confidence":%.4f,"alternatives":[]}'
                for name in names
            ]
            for head, names in self._classes.items()
        }

        # Of float32 in base64, three numbers are 16 characters. So each head begins at a multiple
        # of three columns: head, characters of its own, padding, first column.
        self._layout: list[tuple[str, int, str, int]] = []
        self._columns = 0
        for head, classes in spec.heads.items():
            missing = -4 * len(classes) % 3
            characters = (4 * len(classes) + missing) // 3 * 4 - missing
            self._layout.append((head, characters, "=" * missing, self._columns))
            self._columns += -(-len(classes) // 3) * 3

    def refusal(self, choice: Choice) -> ChoiceRefused | None:
        """Why the model can't answer such a choice; None if it can."""
        model = f"the model {self._spec.name} {self._spec.version}"
        if choice.precision and not self._spec.thresholds:
            return PrecisionUnknown(
                f"{model} has no thresholds for a precision; leave precision out and send "
                "min_confidence, or ask the operator for a newer model"
            )
        if choice.embedding and self._spec.embedding is None:
            return EmbeddingUnknown(
                f"{model} has no embedding; leave embedding out, or ask the operator for a newer "
                "model"
            )
        if choice.profile and choice.profile not in self._profiles:
            names = ", ".join(self._profiles) or "none"
            return ProfileUnknown(
                f"there is no profile {choice.profile[:40]!r}; of those that the operator has set "
                f"up there is {names}. Send `profile=` for the model's own classes"
            )
        return None

    def name(self, probabilities: Probabilities, choices: Sequence[Choice]) -> Named:
        """The class that each head names for each photo, sure or not.

        Args:
            probabilities: head -> float32 (N, classes).
            choices: N of them.
        """
        own = {head: probabilities[head].argmax(axis=1) for head in self._classes}
        named = self._taxonomy.agree(probabilities, own)
        if named is not own:
            alone = [row for row, choice in enumerate(choices) if not choice.consistent]
            for head in self._taxonomy.heads:
                named[head][alone] = own[head][alone]
        return named

    def familiar(self, probabilities: Probabilities) -> NDArray[np.bool_]:
        """Whether each photo may be promised a precision: its heads are not all in doubt."""
        spec = self._spec
        rows = [probabilities[head] for head in spec.hierarchy or spec.heads]
        if spec.max_entropy is None:
            return np.ones(len(rows[0]), bool)
        return entropy(rows) <= spec.max_entropy

    def answers(
        self,
        probabilities: Probabilities,
        choices: Sequence[Choice],
        named: Named | None = None,
        images: Images | None = None,
        strange: NDArray[np.bool_] | None = None,
        sure: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> list[bytes]:
        """The JSON body that answers each photo.

        Args:
            probabilities: head -> float32 (N, classes).
            choices: N of them.
            named: what `name` returns for them, if it is known.
            images: uint8 (N, height_px, width_px, 3); without them, a blank photo and noise
                get labels like any other.
            strange: (N,), whether each photo can be promised no precision, if it is known.
            sure: head -> (N,), the confidence that a precision asks for, if it is not that of the
                class that the head names.
        """
        named = named or self.name(probabilities, choices)
        rows = np.arange(len(choices))
        # Python's numbers are several times faster to look up and to write than numpy's.
        best = {head: named[head].tolist() for head in self._classes}
        shares = {head: probabilities[head][rows, named[head]] for head in self._classes}
        confidence = {head: each.tolist() for head, each in shares.items()}
        certain = {head: each.tolist() for head, each in sure.items()} if sure else confidence
        any_plain = _PLAIN in choices
        any_whole = any(choice.probabilities for choice in choices)
        whole = self._probabilities(probabilities) if any_whole else []
        plain = [
            [texts[n] % share for n, share in zip(best[head], confidence[head], strict=True)]
            for head, texts in self._plain.items()
            if any_plain
        ]
        if strange is None:
            strange = self._strange(probabilities, choices, images)
        answers = [b""] * len(choices)
        for name in {choice.profile for choice in choices} & self._profiles.keys():
            at = np.flatnonzero([choice.profile == name for choice in choices])
            in_words = self._in_words(name, at, probabilities, choices, named, shares, strange)
            for row, answer in zip(at.tolist(), in_words, strict=True):
                answers[row] = answer
        for row, choice in enumerate(choices):
            if answers[row]:
                continue
            if choice == _PLAIN and not self._hides:
                labels = [texts[row] for texts in plain]
            elif choice.probabilities:
                labels = []
            else:
                labels = [
                    self._label(
                        head, best[head][row], confidence[head][row], certain[head][row], choice,
                        probabilities[head][row], bool(strange[row]),
                    )
                    for head in self._classes
                ]  # fmt: skip
            more = whole[row] if choice.probabilities else ""
            if choice.embedding and self._spec.embedding is not None:
                numbers = ",".join([f"{n:.4f}" for n in probabilities[EMBEDDING][row].tolist()])
                digest = self._spec.embedding.digest
                more += f',"embedding":{{"digest":"{digest}","vector":[{numbers}]}}'
            answers[row] = (
                f'{{"model":{self._model},"labels":{{{",".join(labels)}}}{more}}}'.encode()
            )
        return answers

    def _in_words(
        self,
        name: str,
        rows: NDArray[np.intp],
        probabilities: Probabilities,
        choices: Sequence[Choice],
        named: Named,
        shares: Mapping[str, NDArray[np.float32]],
        strange: NDArray[np.bool_],
    ) -> list[bytes]:
        """The answers to the photos of some rows, in the words of a profile.

        A merged word has more confidence than each of its classes, and the thresholds of a
        precision are those of classes. So a precision takes a class of that word that the model
        itself names, with enough confidence of its own.
        """
        profile, labeller = self._profiles[name]
        merged = profile.merge(probabilities, rows)
        own = [choices[row]._replace(profile="") for row in rows.tolist()]
        words = labeller.name(merged, own)
        sure = {
            head: np.where(profile.words(head, named[head][rows]) == words[head], each[rows], -1)
            for head, each in shares.items()
        }
        return labeller.answers(merged, own, words, strange=strange[rows], sure=sure)

    def _strange(
        self, probabilities: Probabilities, choices: Sequence[Choice], images: Images | None
    ) -> NDArray[np.bool_]:
        """Whether each photo can be promised no precision; not looked at if none is asked for."""
        if not any(choice.precision for choice in choices):
            return np.zeros(len(choices), bool)
        strange = ~self.familiar(probabilities)
        return strange if images is None else strange | blank(images) | noise(images)

    def _probabilities(self, probabilities: Probabilities) -> list[str]:
        """The member `probabilities` of each photo's answer."""
        values = np.zeros((len(probabilities[next(iter(self._classes))]), self._columns), "<f4")
        for head, _, _, column in self._layout:
            values[:, column : column + len(self._classes[head])] = probabilities[head]
        # All at once: alone, each row would take 7 µs.
        text = binascii.b2a_base64(values.data, newline=False).decode()
        row_characters = len(text) // len(values)
        members = []
        for at in range(0, len(text), row_characters):
            heads = []
            for head, characters, padding, column in self._layout:
                start = at + column * 16 // 3
                heads.append(f'"{head}":"{text[start : start + characters]}{padding}"')
            members.append(f',"probabilities":{{{",".join(heads)}}}')
        return members

    def _label(
        self,
        head: str,
        best: int,
        confidence: float,
        certain: float,
        choice: Choice,
        probabilities: NDArray[np.float32],
        strange: bool,
    ) -> str:
        classes = self._classes[head]
        precise = not choice.precision or (
            certain >= threshold(self._spec, head, choice.precision) and not strange
        )
        confident = precise and confidence >= choice.min_confidence and best != self._hidden[head]
        label = classes[best] if confident else "null"
        others: list[str] = []
        if choice.top_k > 1 or not confident:
            # Stable, so that equal probabilities keep the order of the classes, as argmax does.
            order = np.argsort(-probabilities, kind="stable")
            ranked = [best, *order[order != best].tolist()]
            if self._hidden[head] in ranked:
                ranked.remove(self._hidden[head])
            ranked = ranked[confident : choice.top_k]
            others = [
                f'{{"label":{classes[n]},"confidence":{probabilities[n]:.4f}}}' for n in ranked
            ]
        return (
            f'"{head}":{{"label":{label},"confidence":{confidence:.4f},'
            f'"alternatives":[{",".join(others)}]}}'
        )


def blank(images: Images) -> NDArray[np.bool_]:
    """Whether each image shows nothing, (N,): all its pixels have nearly one colour.

    Args:
        images: uint8 (N, height_px, width_px, 3).
    """
    pixels = images.reshape(len(images), -1, 3)
    # A few pixels tell of nearly every photo that it is not blank.
    suspects = np.flatnonzero(_span(pixels[:, ::73]) <= _BLANK_LEVELS)
    found = np.zeros(len(images), bool)
    found[suspects] = _span(pixels[suspects]) <= _BLANK_LEVELS
    return found


def noise(images: Images) -> NDArray[np.bool_]:
    """Whether each image is noise, (N,): neighbouring pixels have little to do with each other.

    Args:
        images: uint8 (N, height_px, width_px, 3).
    """
    pixels = images.astype(np.float32)
    variance = pixels.var(axis=(1, 2, 3))
    unlike = [np.square(np.diff(pixels, axis=axis)).mean(axis=(1, 2, 3)) for axis in (1, 2)]
    # Of unrelated neighbours, the mean square of the difference is twice the variance.
    return np.asarray((unlike[0] + unlike[1]) / 2 > 2 * (1 - _LEAST_CORRELATION) * variance)


def _span(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Levels that the pixels of each image span, in the channel where they span most, (N,)."""
    return np.asarray((pixels.max(axis=1) - pixels.min(axis=1)).max(axis=1))


def entropy(heads: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The entropy of the probabilities of several heads together, in nats, (N,).

    Args:
        heads: (N, classes) of each.
    """
    tiny = np.finfo(np.float32).tiny
    each = [-(p * np.log(np.maximum(p, tiny))).sum(axis=1) for p in heads]
    return np.asarray(np.sum(each, axis=0), np.float32)


def threshold(spec: Spec, head: str, precision: float) -> float:
    """The confidence from which on a head's labels have a precision, above 1 if none has.

    Between two precisions of the spec, the threshold of the higher one counts.
    """
    enough = [each for each in spec.thresholds.get(head, {}) if each >= precision]
    found = spec.thresholds[head][min(enough)] if enough else None
    return _NEVER if found is None else found


def parse_answer(answer: bytes) -> dict[str, Any]:
    """The fields of an answer: `model`, `labels`, and those that were chosen beside them."""
    fields: dict[str, Any] = json.loads(answer)
    return fields


def merge_answers(answers: Sequence[bytes]) -> bytes:
    """One answer with the labels of several models, for a photo that several models classified.

    Its embedding is that of the first model.

    Raises:
        ValueError: two of them name the same head.
    """
    fields = [parse_answer(answer) for answer in answers]
    merged = {
        "model": join_identities([each["model"] for each in fields]),
        "labels": join_heads([each["labels"] for each in fields]),
    }
    if "probabilities" in fields[0]:
        merged["probabilities"] = join_heads([each["probabilities"] for each in fields])
    if "embedding" in fields[0]:
        merged["embedding"] = fields[0]["embedding"]
    return json.dumps(merged, ensure_ascii=False, separators=(",", ":")).encode()


def join_identities(models: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Names and versions of several models, each joined by "+"."""
    return {key: "+".join(model[key] for model in models) for key in ("name", "version")}


def join_heads(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One mapping of the heads of several models.

    Raises:
        ValueError: two of them name the same head.
    """
    heads = {head: value for part in parts for head, value in part.items()}
    if len(heads) < sum(map(len, parts)):
        raise ValueError(
            "two classifiers name the same head; `classifiers` in the Serve config needs models "
            f"whose heads differ, they have {', '.join('/'.join(part) for part in parts)}"
        )
    return heads
