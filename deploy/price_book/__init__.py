"""Builds the shipped price files from a pinned price list. A tool of this repository, no part of the product."""
