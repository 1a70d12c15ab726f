"""Tables, tests and pictures over many finished runs: what `python -m mllmrec.report` writes."""
