"""Drawing G completions per prompt from the policy."""
