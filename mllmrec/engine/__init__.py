"""Running a language model over prompts and completions: log-probabilities with gradients."""
