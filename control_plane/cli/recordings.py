"""Files of recordings, and of what else a run leaves, with what is wrong with one in words of the command line."""

from pathlib import Path
from typing import TYPE_CHECKING

from rayplane.control_plane.cli.options import errors
from rayplane.control_plane.cluster.errors import ClusterError, UsageError, refusal
from rayplane.storage.env.private import write_private

if TYPE_CHECKING:
    from rayplane.control_plane.recordings import Recording


def check_files(*files: Path | None) -> None:
    """Raise UsageError when one cannot be written after the runs, which may take hours."""
    for file in files:
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise UsageError(f"cannot write {file}: name a file in a directory that is there")


def write_recording(file: Path, data: bytes) -> None:
    """Write one for its owner alone. Raises ClusterError."""
    try:
        write_private(file, data)
    except OSError as e:
        raise ClusterError(f"cannot write {file}: {refusal(e)}") from e
    errors.print(f"recorded: rayplane dashboard --open {file}, or rayplane replay {file}", markup=False)


def read_recording(file: Path) -> "Recording":
    """Read one that anybody may have written, as far as it is good. Raises UsageError."""
    from rayplane.control_plane.recordings import BadRecording, read

    try:
        found = read(file)
    except OSError as e:
        raise UsageError(f"cannot read {file}: {refusal(e)}") from e
    except BadRecording as e:
        raise UsageError(f"{file} is no recording that can be opened: {e}") from e
    if found.damage:
        errors.print(f"{file} is damaged, and opened as far as it is good: {found.damage}", markup=False)
    return found
