"""HTTP: the ingress deployment, its routes, bodies, problems, contract and page."""
