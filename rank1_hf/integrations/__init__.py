"""Adapters to other projects; each is thin, and names the extra it needs where it is missing."""
