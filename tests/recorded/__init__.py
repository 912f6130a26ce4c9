"""What an older build left: data directories and messages, recorded with that build and never made anew.

`older_build.tar.gz`: `alone/` and `follower/`, members' directories of November 2026, before levels and marks;
`messages.json`, what that follower's leader sent it later and what it answered; `cluster.json`; `node/`, a node host's
replicas of volumes, and `replica.json`, calls of them with their answers: of the last build before lost replicas were
told apart.
"""

import tarfile
from pathlib import Path

_FILE = Path(__file__).with_name("older_build.tar.gz")


def unpacked(into: Path) -> Path:
    """The directory with all of it."""
    with tarfile.open(_FILE) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # since Python 3.11.4
        archive.extractall(into)
    return into
