"""Load tests with Locust; they know the service by its URL alone."""
