"""How results are shown: in a terminal, in a notebook, as a page, as plots."""
