"""Reranking measured: BEIR folders, TREC runs, metrics."""
