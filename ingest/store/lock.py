"""One writer for one file: a second ingest is told so at once, not by a lock that times out later."""

import fcntl
from pathlib import Path
from typing import IO

from vitals.errors import StoreError


def own(path: Path, setting: str) -> IO[bytes]:
    """The lock `<path>.lock`, held until it is closed. `setting` is what a person would correct. Raises StoreError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = Path(f"{path}.lock").open("wb")  # noqa: SIM115  held for the life of the store
    except OSError as error:
        raise StoreError(
            f"The store {path} cannot be opened.", expected="a folder we may write", found=str(error),
            do=f"Correct {setting}, or the folder's permissions.",
        ) from None  # fmt: skip
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise StoreError(
            f"The store {path} is in use.", expected="one ingest for one store",
            found="another process that holds its lock",
            do=f"Stop the other ingest, or give this one its own {setting}.",
        ) from None  # fmt: skip
    return lock
