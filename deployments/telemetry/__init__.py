"""What operators see: metrics through Ray, GET /metrics, and the request log."""
