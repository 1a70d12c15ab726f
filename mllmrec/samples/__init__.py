"""Raw files to samples to prompts: the data of one run."""
