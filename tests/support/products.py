"""Products of a shop, and what a catalogue finds of them."""

import numpy as np

from mlc_core.catalog.catalog import Product
from mlc_core.catalog.filters import parse_filter
from mlc_core.spec import Embedding

EMBEDDING = Embedding(16, "a" * 64)


def product(name, seed, **attributes):
    vector = np.random.default_rng(seed).standard_normal(16).astype(np.float32)
    return Product(name, vector / np.linalg.norm(vector), {"color": "Red"}, attributes)


def ids(catalog, vector, count=10, *filters):
    return [hit.id for hit in catalog.search(vector, count, [parse_filter(f) for f in filters])]
