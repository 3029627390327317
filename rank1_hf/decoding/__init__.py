"""The heart: many rows decoded together. It knows token ids, never text.

Read `loop.py` first; `scheduler.py` says which tokens a step feeds, `kv_cache.py` where their keys and values live,
and `memory.py` for how many there is room, `prefixes.py` what rows of one query share, `speculation.py` what may come
next, `reproducible.py` which steps give everyone the same bits, `step.py` how a step looks as tensors, `attention.py`
how it is attended, `packed.py` multiplies fast on a CPU, and `compiled.py` has layers compiled. `watcher.py` says what
others may see of a row, `probe.py` reads that off a step, and `choosing.py` lets them choose its tokens.
"""
