"""Sweeps: named experiments as resumable multiruns (``mllmrec.sweep``)."""
