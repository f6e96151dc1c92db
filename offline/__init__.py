"""Labels for a whole catalogue of photos, on Ray Data: what `mlc catalog` runs."""
