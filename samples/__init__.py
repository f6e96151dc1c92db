"""Drawn photos for tests, benches and demos. The repository holds no real photo."""
