"""What the service costs and how fast it is, measured on what `make serve` starts."""
