"""Rewards for completions. To add one: one module here, one file in ``conf/reward/``, one test."""
