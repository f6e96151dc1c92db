"""Reads from the query of a request how to choose the labels."""

from __future__ import annotations

import math
import re
from difflib import get_close_matches

from starlette.datastructures import QueryParams

from deployments.errors import MalformedRequest, quote
from mlc_core.labels import MAX_TOP_K, Choice

_PARAMETERS = Choice._fields
_DEFAULT = Choice()
_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def choice_of(query_string: bytes) -> Choice:
    """How the client wants the labels.

    Raises:
        MalformedRequest: a parameter is unknown, given twice, not a number or a truth value, or
            out of its range.
    """
    if not query_string:
        return _DEFAULT
    query = QueryParams(query_string)
    for name in query:
        if name not in _PARAMETERS:
            meant = get_close_matches(name, _PARAMETERS, n=1)
            hint = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(_PARAMETERS)}"
            raise MalformedRequest(f"there is no query parameter {quote(name)}; {hint}")
        if len(query.getlist(name)) > 1:
            raise MalformedRequest(f"{name} is given more than once; send it once")
    top_k, consistent = query.get("top_k", "1"), query.get("consistent", "true")
    count = _number(top_k)
    if not (1 <= count <= MAX_TOP_K and count.is_integer()):
        raise MalformedRequest(
            f"top_k is {quote(top_k)}; it must be a whole number, 1 to {MAX_TOP_K}"
        )
    if consistent not in ("true", "false"):
        raise MalformedRequest(f"consistent is {quote(consistent)}; it must be true or false")
    return Choice(
        int(count),
        _share("min_confidence", query),
        _share("precision", query),
        consistent == "true",
    )


def _share(name: str, query: QueryParams) -> float:
    text = query.get(name, "0")
    share = _number(text)
    if not 0 <= share <= 1:
        raise MalformedRequest(f"{name} is {quote(text)}; it must be a number, 0 to 1")
    return share


def _number(text: str) -> float:
    """The number that JSON reads in a text, nan if it reads none.

    As in JSON Schema, 5.0 and 1e1 are whole numbers.
    """
    return float(text) if _JSON_NUMBER.fullmatch(text) else math.nan
