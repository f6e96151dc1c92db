"""The command `mlc`: calls the modules that do the work, and prints.

It imports the training modules only when they are needed: `mlc classify` starts without TensorFlow.
"""

from __future__ import annotations

import argparse
import codecs
import glob
import io
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mlc_core.arguments import (
    ALL_FAILED,
    FAILED,
    INTERRUPTED,
    MODEL,
    OK,
    PROJECT,
    READER_LEFT,
    SOME_FAILED,
    parser,
)
from mlc_core.artifact import SPEC, Artifact, load_artifact
from mlc_core.engines.engine import Engine, Precision
from mlc_core.engines.loading import load_engine, served_precision
from mlc_core.errors import ArtifactError, MlcError, PhotoFault
from mlc_core.feedback import corrections, read_feedback
from mlc_core.keys import add_key, read_keys, revoke_key
from mlc_core.labels import Choice, Labeller, parse_answer
from mlc_core.photo import FORMATS, decode
from mlc_core.profiles import read_profile
from mlc_core.spec import DEFAULT_IMAGE_SIZE, EMBEDDING, ImageSize

_BATCH = 32
_RAW = "mlc-raw"  # how to write what the encoding of the output lacks
_CELL = 22  # characters of a table's column
_INTERVAL = "{value:6.2%} ({low:.1%}–{high:.1%})"
_SIMILARITY = {
    "of the ten most similar photos, have the same {}": "same",
    "nearest to its variant {}, the photo itself": "found",
    "nearest to its variant {}, the photo itself or a twin": "found_or_twin",
    "nearest to its variant {} among 6,000, the photo itself": "found_among_6000",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    A reader that has left, as in `mlc classify … | head -1`, ends it without a word.
    """
    if sys.stderr is None:  # closed; then print() would write to stdout
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    if sys.stdout is None:
        _report("mlc: the standard output is closed; redirect it to a file or to /dev/null")
        return FAILED
    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error(_RAW, _raw)
        sys.stdout.reconfigure(errors=_RAW)
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # here, where it can be told that the disk is full
    except BrokenPipeError:
        code = READER_LEFT
    except OSError as error:
        _report(f"mlc: {error}")
        code = FAILED
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):  # so that Python's own flush at the end succeeds
        os.dup2(nowhere, stream.fileno())
    return code


def _run(arguments: Sequence[str] | None) -> int:
    commands = {
        "classify": _classify,
        "train": _train,
        "evaluate": _evaluate,
        "quantize": _quantize,
        "index": _index,
        "similar": _similar,
        "keys": _keys,
        "feedback": _feedback,
    }
    options = parser(commands).parse_args(arguments)
    try:
        return int(options.command(options))
    except BrokenPipeError:
        raise
    except ModuleNotFoundError as error:
        _report(f"mlc: {error}; this command needs more packages: pip install -e '.[train]'")
        return FAILED
    except (MlcError, OSError) as error:
        _report(f"mlc: {error}")
        return FAILED
    except KeyboardInterrupt:
        _report("mlc: interrupted")
        return INTERRUPTED


def _raw(error: Any) -> tuple[bytes, int]:
    """Write what the encoding of the output lacks as UTF-8, and a file name's odd bytes as is."""
    text = error.object[error.start : error.end]
    return text.encode("utf-8", "surrogateescape"), error.end


def _classify(options: argparse.Namespace) -> int:
    artifact, engine = _served(options)
    photos: list[Path] = []
    failed = classified = 0
    for name in options.photos:
        found = _photos(name)
        photos += found
        if not found:
            failed += 1
            _report(f"mlc: {name}: no photos found")
    heads = list(artifact.spec.heads)
    width = max([len("photo"), *(len(str(photo)) for photo in photos)])
    if not options.json:
        _print_row("photo", heads, width)
    profiles = [read_profile(options.profile, artifact.spec)] if options.profile else []
    labeller = Labeller(artifact.spec, profiles)
    choice = Choice(top_k=options.top_k, profile="".join(each.name for each in profiles))
    for photo, answer in _answers(photos, artifact.spec.image, engine, labeller, choice):
        if isinstance(answer, Exception):
            failed += 1
            _report(f"mlc: {photo}: {_reason(answer)}")
            continue
        classified += 1
        if options.json:
            print(json.dumps({"photo": str(photo), **answer}))  # ASCII, whatever the file name is
            continue
        for rank in range(options.top_k):
            cells = [_ranked(answer["labels"][head], rank) for head in heads]
            if any(cells):
                _print_row("" if rank else str(photo), cells, width)
    if not failed:
        return OK
    return SOME_FAILED if classified else ALL_FAILED


def _served(options: argparse.Namespace) -> tuple[Artifact, Engine]:
    """The model of the options, in the precision of the service."""
    artifact = load_artifact(options.model)
    precision = options.precision or served_precision(artifact)
    return artifact, load_engine("onnxruntime", artifact, precision=precision)


def _index(options: argparse.Namespace) -> int:
    from mlc_core.catalog.indexing import index_source  # noqa: PLC0415

    artifact, engine = _served(options)
    done = index_source(options.source, options.index, artifact, engine, _report)
    print(
        f"{options.index}: {done.added} added or changed, {done.unchanged} unchanged, "
        f"{done.skipped} skipped, {done.elsewhere} of other sources"
    )
    return SOME_FAILED if done.skipped else OK


def _similar(options: argparse.Namespace) -> int:
    from mlc_core.catalog.filters import parse_filter  # noqa: PLC0415
    from mlc_core.catalog.opening import found, open_catalog  # noqa: PLC0415

    filters = [parse_filter(text) for text in options.filter]
    artifact, engine = _served(options)
    embedding = artifact.spec.embedding
    if embedding is None:
        raise ArtifactError(f"{artifact.path} has no embedding; name a newer model")
    if embedding not in found(options.index):
        raise MlcError(
            f"{options.index} has no products that {artifact.path} embedded; index them with "
            "`mlc index`"
        )
    catalog = open_catalog(options.index, embedding)
    failed = 0
    for photo in options.photos:
        image = _opened(photo, artifact.spec.image)
        if isinstance(image, Exception):
            failed += 1
            _report(f"mlc: {photo}: {_reason(image)}")
            continue
        (vector,) = engine.infer(image[None])[EMBEDDING]
        hits = [
            hit._replace(similarity=round(hit.similarity, 4))
            for hit in catalog.search(vector, options.k, filters)
        ]
        if not hits:
            _report(f"mlc: {photo}: no product passes the filters")
        if options.json:
            print(json.dumps({"photo": str(photo), "products": [hit._asdict() for hit in hits]}))
            continue
        for rank, hit in enumerate(hits):
            known = [*hit.labels.values(), *(f"{n}={v}" for n, v in hit.attributes.items())]
            _print_row("" if rank else str(photo), [hit.id, f"{hit.similarity:.3f}", *known], 20)
    return OK if not failed else SOME_FAILED if failed < len(options.photos) else ALL_FAILED


def _photos(name: str) -> list[Path]:
    """The files of an argument: a directory's photos, a pattern's matches, or the file itself."""
    path = Path(name)
    if path.is_dir():
        formats = Image.registered_extensions()
        named = (file for file in path.rglob("*") if formats.get(file.suffix.lower()) in FORMATS)
        return sorted(file for file in named if file.is_file())
    if glob.has_magic(name) and not path.exists():
        matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207  (Path takes no absolute pattern)
        # ** matches a directory and also the files in it.
        return list(dict.fromkeys(photo for match in matches for photo in _photos(match)))
    return [path]


def _answers(
    photos: Sequence[Path], size: ImageSize, engine: Engine, labeller: Labeller, choice: Choice
) -> Iterator[tuple[Path, dict[str, Any] | Exception]]:
    """Each photo in order, with the fields of its answer or the reason why there is none."""
    for start in range(0, len(photos), _BATCH):
        batch = photos[start : start + _BATCH]
        opened = [_opened(photo, size) for photo in batch]
        images = [each for each in opened if not isinstance(each, Exception)]
        answers: Iterator[bytes] = iter(())
        if images:
            probabilities = engine.infer(np.stack(images))
            answers = iter(labeller.answers(probabilities, [choice] * len(images)))
        for photo, image in zip(batch, opened, strict=True):
            yield photo, image if isinstance(image, Exception) else parse_answer(next(answers))


def _opened(photo: Path, size: ImageSize) -> NDArray[np.uint8] | Exception:
    try:
        return decode(photo.read_bytes(), size)
    except (PhotoFault, OSError) as error:
        return error


def _ranked(label: Mapping[str, Any], rank: int) -> str:
    """A head's label (rank 0) or alternative, with its confidence; "" if there is none."""
    ranked = [label, *label["alternatives"]]
    if rank >= len(ranked):
        return ""
    return f"{ranked[rank]['label'] or 'hidden'} {ranked[rank]['confidence']:.0%}"


def _train(options: argparse.Namespace) -> int:
    model = options.model or _next_version()
    _refuse_to_replace(model, overwrite=options.overwrite)
    with _tensorflow_notes_hidden():
        from mlc_core.training.trainer import Recipe  # noqa: PLC0415
        from mlc_core.training.workflow import train_from_source  # noqa: PLC0415

    names = ("epochs", "batch_size", "learning_rate", "weight_decay", "label_smoothing",
             "patience_epochs", "views", "loss_weights", "precision", "seed")  # fmt: skip
    chosen = {name: value for name in names if (value := getattr(options, name)) is not None}
    recipe = Recipe.taught(**chosen) if options.teacher else Recipe(**chosen)
    run = options.run or _run_directory(model)
    artifact = train_from_source(
        options.data, model, options.heads, DEFAULT_IMAGE_SIZE, recipe, run, _report,
        options.feedback,
    )  # fmt: skip
    _print_metrics(artifact.metrics)
    print(f"saved {artifact.path}")
    return OK


def _evaluate(options: argparse.Namespace) -> int:
    from mlc_core.training.workflow import evaluate_artifact  # noqa: PLC0415  (scipy takes a second)

    artifact = load_artifact(options.model)
    precision: Precision = options.precision or "float32"
    engine = load_engine("onnxruntime", artifact, threads=0, precision=precision)
    out = options.out or _run_directory(artifact.path)
    metrics = evaluate_artifact(artifact, engine.infer, options.data, out, _report)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    _print_metrics(metrics)
    print(f"wrote {out}/report.md with its pictures, and metrics.json")
    return OK


def _quantize(options: argparse.Namespace) -> int:
    from mlc_core.training.workflow import quantize_trained  # noqa: PLC0415  (scipy takes a second)

    before = load_artifact(options.model)
    artifact = quantize_trained(before, options.data, _report)
    if artifact is before:
        return FAILED
    measured, heads = artifact.metrics["int8"]["heads"], artifact.metrics["heads"]
    for head in heads:
        int8, float32 = (each[head]["accuracy"]["value"] for each in (measured, heads))
        print(f"{head:<16}  int8 {int8:.2%}  float32 {float32:.2%}")
    return OK


def _keys(options: argparse.Namespace) -> int:
    now = datetime.now(UTC)
    if options.action == "add":
        expires = now + timedelta(days=options.days)
        key = add_key(
            options.file, options.name, options.rate, expires,
            writes=options.writes, profile=options.profile,
        )  # fmt: skip
        print(key)
        _report(
            f"Keep it now: {options.file} has only its hash. It is valid to {expires:%Y-%m-%d}."
        )
    elif options.action == "revoke":
        revoke_key(options.file, options.name)
        print(f"revoked {options.name}")
    else:
        keys = read_keys(options.file)
        width = max([len("name"), *(len(each.name) for each in keys)])
        _print_row("name", ["photos/s", "expires", ""], width)
        for each in keys:
            expired = "  expired" if each.expires <= now else ""
            cells = [
                f"{each.photos_per_s:g}",
                f"{each.expires:%Y-%m-%d %H:%M %Z}{expired}",
                " ".join(["writes"] * each.writes + [each.profile] * bool(each.profile)),
            ]
            _print_row(each.name, cells, width)
    return OK


def _feedback(options: argparse.Namespace) -> int:
    feedback = read_feedback(options.directory, _report)
    counted = corrections(feedback)
    if options.json:
        for (head, answered, right), times in counted.most_common(options.most):
            print(json.dumps({"head": head, "answered": answered, "right": right, "times": times}))
        return OK
    photos, people = len({each.photo for each in feedback}), len({each.by for each in feedback})
    print(
        f"{len(feedback)} times {people} people judged {photos} photos, from "
        f"{feedback[0].at[:10]} to {feedback[-1].at[:10]}"
    )
    judged = Counter(head for each in feedback for head in each.labels)
    wrong = Counter(head for each in feedback for head in each.corrected)
    for head in judged:
        print(
            f"{head:<16}  corrected {wrong[head]} of {judged[head]}, "
            f"{wrong[head] / judged[head]:.0%}"
        )
    for (head, answered, right), times in counted.most_common(options.most):
        print(f"{times:>6} × {head}: {answered or 'no label'} is {right}")
    return OK


def _print_metrics(metrics: Mapping[str, Any]) -> None:
    larger = {f"at {size}": accuracies for size, accuracies in metrics["larger_photos"].items()}
    measures = ("accuracy", "top_3_accuracy", "macro_f1")
    _print_row("head", [*measures, "  ".join(larger)], 16)
    for head, numbers in metrics["heads"].items():
        cells = [_INTERVAL.format(**numbers[each]) for each in measures]
        at_larger = [f"{each[head]:6.2%}".ljust(len(title)) for title, each in larger.items()]
        _print_row(head, [*cells, "  ".join(at_larger)], 16)
    similarity = metrics.get("similarity", {})
    for title, measured in _SIMILARITY.items():
        for name, numbers in similarity.get(measured, {}).items():
            print(f"{title.format(name)}: {_INTERVAL.format(**numbers)}")


def _print_row(name: str, cells: Sequence[str], width: int) -> None:
    print("  ".join([name.ljust(width), *(cell.ljust(_CELL) for cell in cells)]).rstrip())


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


@contextmanager
def _tensorflow_notes_hidden() -> Iterator[None]:
    """Hide the notes about its build that TensorFlow prints while it is imported.

    No setting silences the first of these notes. If the import fails, they are printed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides the notes after the import
    stderr = os.dup(2)
    try:
        with tempfile.TemporaryFile() as notes:
            os.dup2(notes.fileno(), 2)
            try:
                yield
            except BaseException:
                notes.seek(0)
                os.write(stderr, notes.read())
                raise
            finally:
                os.dup2(stderr, 2)
    finally:
        os.close(stderr)


def _refuse_to_replace(model: Path, *, overwrite: bool) -> None:
    """Fail before the training, not after it.

    Raises:
        ArtifactError: `model` exists and must stay, or is not a model.
    """
    if model.exists() and not overwrite:
        raise ArtifactError(f"{model} exists; name another --model, or add --overwrite")
    if model.exists() and not (model / SPEC).exists():
        raise ArtifactError(f"{model} exists and is no model; name another --model")


def _next_version() -> Path:
    return next(path for number in count(1) if not (path := MODEL.parent / str(number)).exists())


def _run_directory(model: Path) -> Path:
    return PROJECT / "runs" / "-".join(model.resolve().parts[-2:])
