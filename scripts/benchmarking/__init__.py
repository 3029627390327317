"""The parts of `scripts/benchmark.py`.

`workloads.py` says what is judged, `peers.py` who judges it, `limits.py` what the machine could do at best, `vary.py`
changes one thing at a time, `switches.py` turns the engine's switches, and `report.py` writes it all down.
"""
