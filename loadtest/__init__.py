"""Load tests with Locust. They know the service by its URL alone."""
