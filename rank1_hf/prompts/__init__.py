"""Pairs to token ids: the prompt contract, and what counts as a pair. Read `prompt.py` first."""
