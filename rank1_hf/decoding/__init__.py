"""The heart: many rows decoded together. It knows token ids, never text.

Read `loop.py` first; `scheduler.py` says which tokens a step feeds, `kv_cache.py` where their keys and values live,
`prefixes.py` what rows of one query share, `step.py` how a step looks as tensors, and `attention.py` how it is
attended.
"""
