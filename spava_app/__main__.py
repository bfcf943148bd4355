"""`python -m spava_app` is `spava`."""

from spava_app.cli.main import main

if __name__ == "__main__":
    main()
