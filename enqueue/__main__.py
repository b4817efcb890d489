"""What starts the command `longshore`: the command itself is in `enqueue.cli`."""

from __future__ import annotations

import gc


def main() -> None:
    """The console script."""
    gc.set_threshold(500_000, 20, 20)  # what is imported from here on is no garbage: it needn't be looked at even once
    from enqueue.cli import main

    main()


if __name__ == "__main__":
    main()
