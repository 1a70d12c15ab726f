"""Classical recommenders, ranked on the same candidates as the language models."""
