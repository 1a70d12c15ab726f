"""Experience: short texts about what right answers had in common, shown in every prompt; no weights change."""
