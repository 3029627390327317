"""Judgments and traces, as data without any display. Read `judgment.py` first."""
