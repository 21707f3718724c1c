"""``python -m geowb.cli``."""

from geowb.cli import main

if __name__ == "__main__":
    main()
