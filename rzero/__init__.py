"""R-Zero: a Challenger and a Solver, grown from one base model, train each other (arXiv 2508.05004)."""
