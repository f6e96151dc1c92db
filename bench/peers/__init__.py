"""The same model behind other servers, which run in an environment of their own."""
