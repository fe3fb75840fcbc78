"""`python -m supervisor` is the `stockade` command."""

from supervisor.cli.main import main

if __name__ == "__main__":
    main()
