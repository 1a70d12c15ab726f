"""Samples → prompt text, and completions → parsed answers. The only place that knows the markup."""
