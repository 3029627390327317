"""Evaluation: metrics, and jobs that rerank a run and can be resumed. Read `job.py` first."""
