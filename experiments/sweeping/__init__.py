"""Multiruns that can be killed and started again: where jobs live, how they end, and what a sweep found."""
