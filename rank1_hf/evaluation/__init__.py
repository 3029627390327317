"""Reranking measured: collections, runs, metrics, and the job that judges a run and survives."""
