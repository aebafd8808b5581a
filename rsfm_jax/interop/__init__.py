"""Weights in and out: our trees, and the names and files that torch users know."""
