"""Adapters for common configuration systems, each a small file that shows how to write the next."""
