"""Reads from the query of a request how to choose the labels, and what to search for."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

from starlette.datastructures import QueryParams

from deployments.errors import MalformedRequest, quote
from mlc_core.catalog.filters import Filter, FilterError, parse_filter
from mlc_core.labels import MAX_TOP_K, Choice

MAX_K, MAX_FILTERS = 100, 20
_DEFAULT = Choice()
_CHOICE = tuple(name for name in Choice._fields if name != "probabilities")
_LABELS = tuple(name for name in _CHOICE if name != "embedding")
_SEARCH = ("id", "k", "filter", "labels")
_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class Wanted(NamedTuple):
    """What a client searches for.

    Attributes:
        id: of the product that is searched by; "" to search by the photo of the request.
        labels: whether the labels of the photo come too.
        choice: how it wants these labels.
    """

    id: str
    k: int
    filters: Sequence[Filter]
    labels: bool
    choice: Choice


def search_of(query_string: bytes, profile: str = "") -> Wanted:
    """What the client wants to find.

    Args:
        profile: the client's, if the query asks for labels and names none.

    Raises:
        MalformedRequest: as `choice_of`, or a filter is none.
    """
    query = _query(query_string, (*_SEARCH, *_LABELS), repeated=("filter",))
    texts = query.getlist("filter")
    if len(texts) > MAX_FILTERS:
        raise MalformedRequest(f"there are {len(texts)} filters; send at most {MAX_FILTERS}")
    try:
        filters = [parse_filter(text) for text in texts]
    except FilterError as error:
        raise MalformedRequest(str(error)) from error
    if "id" in query and not query["id"]:
        raise MalformedRequest("id is empty; leave it out to search by a photo")
    labels = _truth("labels", query, default=False)
    if labels and "id" in query:
        raise MalformedRequest("labels come with a photo; leave labels or id out")
    choice = _choice(query, profile if labels else "")
    if not labels and (asked := [name for name in _LABELS if _asks(name, query, choice)]):
        raise MalformedRequest(f"{asked[0]} is about labels; send labels=true with it")
    choice = choice._replace(embedding=True)
    return Wanted(query.get("id", ""), _whole("k", query, 10, MAX_K), filters, labels, choice)


def choice_of(query_string: bytes, profile: str = "") -> Choice:
    """How the client wants the labels.

    Args:
        profile: the client's, if the query names none.

    Raises:
        MalformedRequest: a parameter is unknown, given twice, not a number or a truth value, or
            out of its range.
    """
    if not query_string:
        return _DEFAULT if not profile else Choice(profile=profile)
    return _choice(_query(query_string, _CHOICE), profile)


def _asks(name: str, query: QueryParams, choice: Choice) -> bool:
    """Whether the query has another value than the default, which generated clients send."""
    return name in query and getattr(choice, name) != getattr(_DEFAULT, name)


def _choice(query: QueryParams, profile: str) -> Choice:
    return Choice(
        top_k=_whole("top_k", query, _DEFAULT.top_k, MAX_TOP_K),
        min_confidence=_share("min_confidence", query),
        precision=_share("precision", query),
        consistent=_truth("consistent", query, default=_DEFAULT.consistent),
        embedding=_truth("embedding", query, default=_DEFAULT.embedding),
        profile=query.get("profile", profile),
    )


def _query(query_string: bytes, known: Sequence[str], repeated: Sequence[str] = ()) -> QueryParams:
    query = QueryParams(query_string)
    for name in query:
        if name not in known:
            meant = get_close_matches(name, known, n=1)
            hint = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(known)}"
            raise MalformedRequest(f"there is no query parameter {quote(name)}; {hint}")
        if name not in repeated and len(query.getlist(name)) > 1:
            raise MalformedRequest(f"{name} is given more than once; send it once")
    return query


def _whole(name: str, query: QueryParams, default: int, most: int) -> int:
    text = query.get(name, str(default))
    count = _number(text)
    if not (1 <= count <= most and count.is_integer()):
        raise MalformedRequest(f"{name} is {quote(text)}; it must be a whole number, 1 to {most}")
    return int(count)


def _share(name: str, query: QueryParams) -> float:
    text = query.get(name, "0")
    share = _number(text)
    if not 0 <= share <= 1:
        raise MalformedRequest(f"{name} is {quote(text)}; it must be a number, 0 to 1")
    return share


def _truth(name: str, query: QueryParams, *, default: bool) -> bool:
    text = query.get(name, str(default).lower())
    if text not in ("true", "false"):
        raise MalformedRequest(f"{name} is {quote(text)}; it must be true or false")
    return text == "true"


def _number(text: str) -> float:
    """The number that JSON reads in a text, nan if it reads none.

    As in JSON Schema, 5.0 and 1e1 are whole numbers.
    """
    return float(text) if _JSON_NUMBER.fullmatch(text) else math.nan
