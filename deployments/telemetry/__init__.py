"""What operators see of the service: metrics through Ray, GET /metrics, and the request log."""
