"""The service: Ray Serve deployments around mlc_core, and what starts them."""
