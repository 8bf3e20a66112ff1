"""`python -m tinygpt` is `tinygpt`."""

from tinygpt.cli import main

if __name__ == "__main__":
    main()
