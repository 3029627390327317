"""`python -m rank1_hf`."""

from rank1_hf.commands.cli import main

if __name__ == "__main__":
    main()
