"""Hyper-parameter search with Optuna (``mllmrec.tune``)."""
