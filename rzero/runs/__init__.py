"""The bookkeeping of a run: its directory, ledger, stages, question bank, progress, and the health of its grader."""
