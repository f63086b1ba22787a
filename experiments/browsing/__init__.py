"""The page for people (`python -m experiments.browse`): what it shows, apart from the command that serves it."""
