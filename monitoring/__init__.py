"""What watches the service: Prometheus rules and a Grafana dashboard."""
