"""Benchmarks as lm-eval task definitions: one YAML file each, and the functions they name."""
