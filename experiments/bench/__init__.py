"""How fast and how large the parts are: `python -m experiments.bench NAME`."""
