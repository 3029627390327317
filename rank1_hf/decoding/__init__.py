"""The heart: many rows decoded together. It knows token ids, never text.

Read `loop.py` first; `scheduler.py` says which tokens a step feeds, `kv_cache.py` where their keys and values live,
and `memory.py` for how many there is room, `prefixes.py` what rows of one query share, `speculation.py` what may come
next, `step.py` how a step looks as tensors, and `attention.py` how it is attended.
"""
