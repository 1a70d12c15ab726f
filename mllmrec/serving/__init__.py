"""``python -m mllmrec.serve``: a finished run behind HTTP."""
