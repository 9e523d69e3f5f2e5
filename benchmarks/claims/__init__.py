"""What the papers claim, tried on the data on board: `python -m benchmarks.claims` writes docs/claims.md."""
