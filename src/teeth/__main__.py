"""``python -m teeth`` is the teeth command."""

from teeth.cli import main

if __name__ == "__main__":
    main()
