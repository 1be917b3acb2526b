"""`python -m mailhub` is the command line `mailhub`."""

from mailhub.app.cli import main

if __name__ == "__main__":
    main(prog_name="mailhub")
