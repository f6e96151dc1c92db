"""The service on Kubernetes: images, manifests, and what `render` makes from the configuration."""
