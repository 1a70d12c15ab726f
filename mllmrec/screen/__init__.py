"""What a person sees while a command runs: console, progress, and output on any stream."""
