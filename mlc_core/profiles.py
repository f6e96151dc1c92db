"""A merchant's own words: renames, merges, hides and translates the classes of a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from mlc_core.engines.engine import Probabilities
from mlc_core.errors import ProfileError
from mlc_core.spec import Spec

HIDDEN = ""  # the word of all classes of a head that a profile hides
MAX_BYTES = 2**20  # of a file
PROFILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
PROFILE_NAMES = "1 to 63 letters, digits, '_', '.' and '-', no sign first"
_MAX_CHARACTERS = 200  # of a word
_SHOWN = 40  # characters of what is quoted in an error
_TEXT, _NULL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null"


class Profile:
    """The words of one profile for the classes of one model.

    Attributes:
        name: the file's, without its ending; requests choose the profile by it.
        spec: the model's, with words for classes. A head has a word once, however many classes
            have it. Paths of the taxonomy that have the same words are one.
    """

    def __init__(self, name: str, words: Mapping[str, Mapping[str, str]], spec: Spec) -> None:
        """Apply words to a model.

        Args:
            words: head -> class -> its word, HIDDEN for none. Other classes keep their names.
        """
        self.name = name
        own = {
            head: [words.get(head, {}).get(each, each) for each in classes]
            for head, classes in spec.heads.items()
        }
        heads = {head: tuple(dict.fromkeys(each)) for head, each in own.items()}
        # (classes, words), 1 where a class has the word
        self._merges = {
            head: np.equal.outer(own[head], heads[head]).astype(np.float32)
            for head in words
            if head in heads
        }
        self._words = {head: each.argmax(axis=1) for head, each in self._merges.items()}
        word_of = {
            head: dict(zip(spec.heads[head], own[head], strict=True)) for head in spec.hierarchy
        }
        paths = [
            tuple(word_of[head][each] for head, each in zip(spec.hierarchy, path, strict=True))
            for path in spec.taxonomy
        ]
        self.spec = replace(spec, heads=heads, taxonomy=tuple(dict.fromkeys(paths)))

    def merge(self, probabilities: Probabilities, rows: NDArray[np.intp]) -> Probabilities:
        """The probabilities of the words: those of the classes that have one are added.

        Args:
            probabilities: output -> float32 (N, columns).
            rows: of the photos that are asked for.

        Returns:
            output -> float32 (rows, words); outputs without words are left as they are.
        """
        return {
            output: values[rows] @ self._merges[output] if output in self._merges else values[rows]
            for output, values in probabilities.items()
        }

    def words(self, head: str, classes: NDArray[np.intp]) -> NDArray[np.intp]:
        """The numbers of the words of some classes of a head, which are numbers too."""
        return self._words[head][classes] if head in self._words else classes


def read_profile(file: Path, spec: Spec) -> Profile:
    """Read a profile, and check it against the model that it is for.

    Raises:
        ProfileError: the file can't be read or is no profile, or names what the model has not;
            says in which line.
    """
    reader = _Reader(file)
    root = _root(file)
    words: dict[str, dict[str, str]] = {}
    for head, node in reader.mapping(root, "heads, each with classes and their words"):
        if head.value not in spec.heads:
            raise reader.error(head, f"no head {_quote(head)}", head.value, spec.heads)
        classes = spec.heads[head.value]
        of_head = words[head.value] = {}
        for name, word in reader.mapping(node, "classes and their words"):
            if name.value not in classes:
                raise reader.error(
                    name, f"{head.value} has no class {_quote(name)}", name.value, classes
                )
            of_head[name.value] = reader.word(word, name)
        if all(of_head.get(each) == HIDDEN for each in classes):
            raise reader.error(head, f"it hides every class of {head.value}; leave some")
        if len({of_head.get(each, each) for each in classes}) < 2:
            raise reader.error(head, f"one word for all of {head.value} says nothing; leave two")
    return Profile(file.stem, words, spec)


def _root(file: Path) -> yaml.Node | None:
    """The contents of a YAML file, each with its line; None if it has none."""
    if not PROFILE_NAME.fullmatch(file.stem):
        raise ProfileError(f"{file}: a profile has its file's name, which must be {PROFILE_NAMES}")
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ProfileError(f"{file} has more than {MAX_BYTES} bytes; a profile is a short file")
        return yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ProfileError(f"{file} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ProfileError(f"{file} is not UTF-8; save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ProfileError(f"{file}:{line}: not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ProfileError(f"{file} is not YAML: {error}") from error


class _Reader:
    """Reads the nodes of a YAML file, and says in which line something is wrong."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def mapping(self, node: yaml.Node | None, of: str) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
        """The keys and values of a mapping, whose keys are texts and differ."""
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, f"expected a mapping of {of}")
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != _TEXT:
                shown = f" {_quote(key)}" if isinstance(key, yaml.ScalarNode) else ""
                raise self.error(key, f"the key{shown} is no text; put it in quotes")
            if key.value in seen:
                raise self.error(key, f"{_quote(key)} is in line {seen[key.value]} already")
            seen[key.value] = key.start_mark.line + 1
        return list(node.value)

    def word(self, node: yaml.Node, name: yaml.ScalarNode) -> str:
        """The word of a class."""
        if isinstance(node, yaml.ScalarNode) and node.tag == _NULL:
            return HIDDEN
        if not isinstance(node, yaml.ScalarNode) or node.tag != _TEXT:
            raise self.error(
                node, f"the word of {_quote(name)} is no text; put it in quotes, or null to hide it"
            )
        word = str(node.value)
        if not (0 < len(word) <= _MAX_CHARACTERS and word.isprintable() and word == word.strip()):
            raise self.error(
                node,
                f"the word of {_quote(name)} must have 1 to {_MAX_CHARACTERS} printable "
                "characters, with no space at either end; null hides the class",
            )
        return word

    def error(
        self,
        node: yaml.Node | None,
        fault: str,
        got: str = "",
        known: Mapping[str, object] | tuple[str, ...] = (),
    ) -> ProfileError:
        """What is wrong in the line of a node, and what may have been meant."""
        line = node.start_mark.line + 1 if node is not None else 1
        meant = get_close_matches(got, known, n=1) if known else []
        hint = f"; did you mean {meant[0]}?" if meant else ""
        if known and not meant:
            names = list(known)
            hint = f"; there are {', '.join(names[:10])}" + (", …" if len(names) > 10 else "")
        return ProfileError(f"{self._file}:{line}: {fault}{hint}")


def _quote(node: yaml.ScalarNode) -> str:
    text = str(node.value)
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
