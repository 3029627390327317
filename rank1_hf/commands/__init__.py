"""The command line: one file for each command, and the options they share. Read `cli.py` first."""
