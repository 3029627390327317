"""Adapters to other projects, one file each. Read `ranking.py` first: the retrieval adapters share it.

Each adapter names the extra to install where its project is missing.
"""
