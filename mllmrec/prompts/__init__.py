"""Samples → prompt text, and completions → parsed answers. Only this package knows the markup."""
