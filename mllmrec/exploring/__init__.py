"""``python -m mllmrec.explore``: runs on a page, user by user."""
