"""The service: Ray Serve deployments around mlc_core, their settings and telemetry."""
