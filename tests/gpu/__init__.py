"""What only a real GPU can show, in one process and within minutes: `make test-gpu PYTHON=python3`.

Every test has the same body for the CPU, where it runs in CI at tiny sizes, so that what waits for a GPU is not code
that nobody has run. Of the packages here only `rzero` is imported; what is not installed is skipped by name.
"""
