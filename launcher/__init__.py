"""Starts and stops a service on one machine, for users, tests and benches."""
