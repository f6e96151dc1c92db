"""Claims about filters, alone and over many products."""

import numpy as np
import pytest

from mlc_core.catalog.columns import Columns
from mlc_core.catalog.filters import FilterError, parse_filter

PRODUCTS = [
    {"category": "Tshirts", "price": 9.5, "in_stock": True},
    {"category": "Jeans", "price": 50, "in_stock": False},
    {"category": "true", "price": "50"},
    {},
]


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        ("category=Tshirts", [0]),
        ("category!=Tshirts", [1, 2, 3]),
        ("price<50", [0]),
        ("price<=50", [0, 1]),
        ("price>=9.5", [0, 1]),
        ("price=50", [1]),
        ("in_stock=true", [0]),
        ("in_stock!=true", [1, 2, 3]),
        ("category=true", []),
        ("nothing=1", []),
        ("nothing!=1", [0, 1, 2, 3]),
        ("nothing<1", []),
    ],
)
def test_a_filter_passes_the_same_products_one_by_one_and_all_at_once(text, passing):
    condition = parse_filter(text)
    alone = [n for n, each in enumerate(PRODUCTS) if condition.passes(each.get(condition.name))]
    columns = Columns()
    for each in PRODUCTS:
        columns.add(each)
    assert alone == np.flatnonzero(columns.passing([condition], len(columns))).tolist() == passing


def test_all_filters_must_pass():
    columns = Columns()
    for each in PRODUCTS:
        columns.add(each)
    both = [parse_filter("price<100"), parse_filter("category!=Jeans")]
    assert np.flatnonzero(columns.passing(both, len(columns))).tolist() == [0]


@pytest.mark.parametrize(
    "text", ["", "price", "=3", "price<", "price<cheap", "price<true", "a b=c"]
)
def test_what_is_no_filter_says_what_one_looks_like(text):
    with pytest.raises(FilterError):
        parse_filter(text)


def test_columns_take_attributes_that_only_later_products_have():
    columns = Columns()
    for n in range(1000):
        columns.add({"price": n} if n % 2 else {"brand": f"brand {n % 10}"})
    assert columns.passing([parse_filter("price<10")], len(columns)).sum() == 5
    assert columns.passing([parse_filter("brand=brand 4")], len(columns)).sum() == 100
