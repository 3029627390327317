"""Readers of documents, pairs, collections, runs and qrels. Read `sources.py` first: where a collection comes from."""
