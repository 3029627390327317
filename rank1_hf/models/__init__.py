"""Checkpoints: how they are loaded, quantized and placed, and what fits where. Read `loading.py` first."""
