"""The engine: decodes many requests together, given as token ids. Read `plain.py` first, then `loop.py`.

Everything else makes the plain loop faster and must give the same chains; README.md in this folder lists the files in
reading order, and the option that switches each optimization off.
"""
