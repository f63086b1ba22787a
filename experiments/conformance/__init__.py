"""Agreement with recorded inputs and outputs, row by row: `python -m experiments.conformance KIND FILE`."""
