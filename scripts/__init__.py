"""Commands that maintain the repository itself."""
