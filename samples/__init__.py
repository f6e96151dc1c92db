"""Drawn photos, for tests, benches and demos: no photo of anybody's is committed."""
