"""The service on Kubernetes: images, manifests, and what is made of the project's configuration."""
