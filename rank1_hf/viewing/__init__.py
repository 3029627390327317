"""Results as text, HTML, tables and plots. Read `judgments.py` first: what calls return."""
