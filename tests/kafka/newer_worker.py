"""A worker of the next state version: python -m tests.kafka.newer_worker."""

import sys

from streams.worker import image, older

NEWER = image.STATE_VERSION + 1


def _moved(tree: older.Tree) -> None:
    """As a migration is: what held a thing is called otherwise now, here there and back."""
    tree["clock"] = tree.pop("clock_ms")
    tree["clock_ms"] = tree.pop("clock")


if __name__ == "__main__":
    older.MIGRATIONS[image.STATE_VERSION] = _moved
    image.STATE_VERSION = NEWER  # before anything else has read it

    from streams.cli import main

    sys.argv = ["portwatch", "worker"]
    main()
