"""Finished runs as folders for others: weights that load without this package, a description, a model card."""
