"""Files of recordings, with what is wrong with one in words of the command line."""

from pathlib import Path
from typing import TYPE_CHECKING

from rayplane.control_plane.cli.options import errors
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.storage.env.private import write_private

if TYPE_CHECKING:
    from rayplane.control_plane.recordings import Recording


def write_recording(file: Path, data: bytes) -> None:
    """Write one for its owner alone. Raises ClusterError."""
    try:
        write_private(file, data)
    except OSError as e:
        raise ClusterError(f"cannot write {file}: {e.strerror}") from e
    errors.print(f"recorded: rayplane dashboard --open {file}", markup=False)


def read_recording(file: Path) -> "Recording":
    """Read one that anybody may have written. Raises UsageError."""
    from rayplane.control_plane.recordings import BadRecording, read

    try:
        return read(file)
    except OSError as e:
        raise UsageError(f"cannot read {file}: {e.strerror}") from e
    except BadRecording as e:
        raise UsageError(f"{file} is no recording that can be opened: {e}") from e
