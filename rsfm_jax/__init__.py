"""Billion-scale remote-sensing foundation models in JAX (after arXiv 2304.05215)."""

__version__ = "0.1.0"
