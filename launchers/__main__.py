"""``python -m interlace.launchers``: the command line where no script is installed, as under torchrun -m."""

from .cli import main

if __name__ == "__main__":
    main()
