"""A shop's own products: their embeddings, labels and attributes, and the search among them."""
