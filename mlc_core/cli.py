"""The command `mlc`: parses, calls the modules that do the work, and prints.

Imports what trains only when it is needed: `mlc classify` starts without TensorFlow.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from mlc_core.artifact import load_artifact
from mlc_core.engines.loading import load_engine
from mlc_core.errors import MlcError, PhotoFault
from mlc_core.labels import MAX_TOP_K, Choice, Labeller, parse_answer
from mlc_core.photo import decode
from mlc_core.spec import DEFAULT_IMAGE_SIZE, HEADS

_MODEL = Path("models/fashion/1")
_BATCH = 32

OK, FAILED, USAGE, SOME_PHOTOS_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
_EXIT_CODES = f"""exit codes:
  {OK}    done
  {FAILED}    failed; the last line on stderr says why and what to do
  {USAGE}    the command line is wrong
  {SOME_PHOTOS_FAILED}    classify: some photos could not be read or decoded, the others were
  {INTERRUPTED}  interrupted; the same command continues training from the last epoch
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except MlcError as error:
        print(f"mlc: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("mlc: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlc",
        description="Names a product photo's colour, master category, sub-category and category.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=_EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(command=run)
        return added

    classify = command("classify", _print_labels, "print the labels of photos")
    classify.add_argument("photos", metavar="PHOTO", nargs="+", type=Path)
    classify.add_argument("--model", type=Path, default=_MODEL, help="default: %(default)s")
    classify.add_argument(
        "--json", action="store_true", help="one JSON object a line, a photo each"
    )
    classify.add_argument(
        "--top-k", type=_top_k, default=1, help=f"labels a head, 1 to {MAX_TOP_K}; with --json"
    )

    train = command("train", _train, "train a model on a Fashion Product Images data set")
    train.add_argument(
        "data", metavar="DATA", type=Path, help="directory or zip: styles.csv, images/"
    )
    train.add_argument(
        "--model",
        type=_artifact_path,
        help=f"where it goes: …/NAME/VERSION, default the next free version in {_MODEL.parent}",
    )
    train.add_argument(
        "--run",
        type=Path,
        help="directory of the checkpoints, default runs/NAME-VERSION; "
        "training continues from what is there",
    )
    train.add_argument(
        "--heads",
        type=_heads,
        default=HEADS,
        metavar="HEAD,…",
        help=f"the heads to train, default all: {','.join(HEADS)}",
    )
    train.add_argument(
        "--loss-weights",
        type=_loss_weights,
        default={},
        metavar="HEAD=WEIGHT,…",
        help="default: 1 each",
    )
    train.add_argument("--epochs", type=_positive, help="default: the recipe's")
    train.add_argument("--seed", type=int, help="of split, weights and augmentation")
    train.add_argument(
        "--precision",
        choices=("float32", "mixed_bfloat16"),
        help="the latter is faster on a GPU, and on a CPU that has AVX512-BF16",
    )

    evaluate = command("evaluate", _evaluate, "measure a model on the test split of its data set")
    evaluate.add_argument("data", metavar="DATA", type=Path, help="the data set it was trained on")
    evaluate.add_argument("--model", type=Path, default=_MODEL, help="default: %(default)s")
    evaluate.add_argument(
        "--out",
        type=Path,
        help="where metrics.json and confusion-HEAD.png go, default runs/NAME-VERSION",
    )

    quantize = command("quantize", _quantize, "add an int8 network to a model")
    quantize.add_argument("data", metavar="DATA", type=Path, help="the data set it was trained on")
    quantize.add_argument("--model", type=Path, default=_MODEL, help="default: %(default)s")
    return parser


def _print_labels(options: argparse.Namespace) -> int:
    artifact = load_artifact(options.model)
    engine = load_engine("onnxruntime", artifact)
    labeller = Labeller(artifact.spec)
    heads = list(artifact.spec.heads)
    width = max(len(str(photo)) for photo in options.photos)
    failed = 0
    if not options.json:
        print("  ".join(["photo".ljust(width), *(f"{head:<22}" for head in heads)]).rstrip())
    for start in range(0, len(options.photos), _BATCH):
        paths, images = [], []
        for path in options.photos[start : start + _BATCH]:
            try:
                images.append(decode(path.read_bytes(), artifact.spec.image))
                paths.append(path)
            except (PhotoFault, OSError) as error:
                failed += 1
                print(f"mlc: {path}: {_reason(error)}", file=sys.stderr)
        if not images:
            continue
        choices = [Choice(top_k=options.top_k)] * len(images)
        for path, answer in zip(
            paths, labeller.answers(engine.infer(np.stack(images)), choices), strict=True
        ):
            fields = parse_answer(answer)
            if options.json:
                print(json.dumps({"photo": str(path), **fields}, ensure_ascii=False))
            else:
                cells = [fields["labels"][head] for head in heads]
                named = [f"{cell['label']} {cell['confidence']:.0%}" for cell in cells]
                print("  ".join([str(path).ljust(width), *(f"{n:<22}" for n in named)]).rstrip())
    return SOME_PHOTOS_FAILED if failed else OK


def _train(options: argparse.Namespace) -> int:
    _quiet_tensorflow()
    from mlc_core.training.trainer import Recipe  # noqa: PLC0415
    from mlc_core.training.workflow import train_from_source  # noqa: PLC0415  (scipy, TensorFlow)

    model = options.model or _next_version()
    chosen = {"epochs": options.epochs, "seed": options.seed, "precision": options.precision}
    recipe = Recipe(
        loss_weights=options.loss_weights,
        **{key: value for key, value in chosen.items() if value is not None},
    )
    run = options.run or _run_directory(model)
    artifact = train_from_source(
        options.data, model, options.heads, DEFAULT_IMAGE_SIZE, recipe, run, _report
    )
    _print_metrics(artifact.metrics)
    print(f"saved {artifact.path}")
    return OK


def _evaluate(options: argparse.Namespace) -> int:
    from mlc_core.training.workflow import evaluate_artifact  # noqa: PLC0415  (scipy takes a second)

    artifact = load_artifact(options.model)
    engine = load_engine("onnxruntime", artifact, threads=0)
    out = options.out or _run_directory(artifact.path)
    metrics = evaluate_artifact(artifact, engine.infer, options.data, out, _report)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1, ensure_ascii=False) + "\n")
    _print_metrics(metrics)
    print(f"wrote {out}/metrics.json and a confusion picture a head")
    return OK


def _quantize(options: argparse.Namespace) -> int:
    from mlc_core.training.workflow import quantize_trained  # noqa: PLC0415  (scipy takes a second)

    artifact = quantize_trained(load_artifact(options.model), options.data, _report)
    if not artifact.int8_path.exists():
        return FAILED
    measured, heads = artifact.metrics["int8_accuracy"], artifact.metrics["heads"]
    for head, accuracy in measured.items():
        print(f"{head:<16}  int8 {accuracy:.2%}  float32 {heads[head]['accuracy']['value']:.2%}")
    return OK


def _print_metrics(metrics: Mapping[str, Any]) -> None:
    larger = metrics["larger_photos"]
    measures = ("accuracy", "top_3_accuracy", "macro_f1")
    print(
        "  ".join([f"{'head':<16}", *(f"{m:<22}" for m in measures), *(f"at {s}" for s in larger)])
    )
    for head, numbers in metrics["heads"].items():
        cells = [
            "{value:6.2%} ({low:.1%}–{high:.1%})".format(**numbers[measure]) for measure in measures
        ]
        at_larger = [
            f"{accuracy[head]:6.2%}".ljust(3 + len(size)) for size, accuracy in larger.items()
        ]
        print("  ".join([f"{head:<16}", *(f"{cell:<22}" for cell in cells), *at_larger]).rstrip())


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _quiet_tensorflow() -> None:
    # Set before TensorFlow is imported, or it fills the terminal with notes on its own build.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _next_version() -> Path:
    return next(path for number in count(1) if not (path := _MODEL.parent / str(number)).exists())


def _run_directory(model: Path) -> Path:
    return Path("runs") / "-".join(model.resolve().parts[-2:])


def _artifact_path(text: str) -> Path:
    path = Path(text)
    if len(path.parts) < 2 or path.name in (".", "..") or path.parent.name in ("", ".", ".."):
        raise argparse.ArgumentTypeError(f"{text!r} is not …/NAME/VERSION, as {_MODEL} is")
    return path


def _heads(text: str) -> tuple[str, ...]:
    heads = tuple(text.split(","))
    for head in heads:
        _known_head(head)
    return heads


def _loss_weights(text: str) -> dict[str, float]:
    weights = {}
    for part in text.split(","):
        head, _, weight = part.partition("=")
        _known_head(head)
        try:
            weights[head] = float(weight)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} is not HEAD=WEIGHT") from None
    return weights


def _known_head(head: str) -> None:
    if head not in HEADS:
        raise argparse.ArgumentTypeError(f"{head!r} is no head; heads are {', '.join(HEADS)}")


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _top_k(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_TOP_K:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_TOP_K}")
    return int(text)
