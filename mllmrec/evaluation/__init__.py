"""Ranking a user's candidates, scoring the rankings, and saying how sure the scores are."""
