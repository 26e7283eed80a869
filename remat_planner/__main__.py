"""``python -m remat_planner`` is the command ``plan``."""

from remat_planner.planner.cli import main

if __name__ == "__main__":
    main()
