"""The report of an evaluation: one HTML file that needs nothing else, made from evaluation.json and a few arrays."""
