"""Reads from the query of a request how to choose the labels."""

from __future__ import annotations

import re
from difflib import get_close_matches

from starlette.datastructures import QueryParams

from deployments.errors import MalformedRequest
from mlc_core.labels import MAX_TOP_K, Choice

_PARAMETERS = ("top_k", "min_confidence")
_DEFAULT = Choice()


def choice_of(query_string: bytes) -> Choice:
    """How the client wants the labels.

    Raises:
        MalformedRequest: a parameter is unknown, given twice, not a number, or out of its range.
    """
    if not query_string:
        return _DEFAULT
    query = QueryParams(query_string)
    for name in query:
        if name not in _PARAMETERS:
            meant = get_close_matches(name, _PARAMETERS, n=1)
            hint = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(_PARAMETERS)}"
            raise MalformedRequest(f"there is no query parameter {name!r}; {hint}")
        if len(query.getlist(name)) > 1:
            raise MalformedRequest(f"{name} is given more than once; send it once")
    top_k, min_confidence = query.get("top_k", "1"), query.get("min_confidence", "0")
    if not (re.fullmatch("[0-9]{1,2}", top_k) and 1 <= int(top_k) <= MAX_TOP_K):
        raise MalformedRequest(f"top_k is {top_k!r}; it must be a whole number, 1 to {MAX_TOP_K}")
    try:
        share = float(min_confidence)
    except ValueError:
        share = float("nan")
    if not 0 <= share <= 1:
        raise MalformedRequest(f"min_confidence is {min_confidence!r}; it must be 0 to 1")
    return Choice(int(top_k), share)
