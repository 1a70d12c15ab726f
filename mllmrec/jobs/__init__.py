"""The jobs of the commands, and what opens a finished run again."""
