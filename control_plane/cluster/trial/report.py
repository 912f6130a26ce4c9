"""Files around a trial: checks that users load, verdicts that are written."""

import json
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path

from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.trial.page import page
from rayplane.control_plane.cluster.trial.verdict import Verdict, junit, table
from rayplane.control_plane.invariants import BadInvariants, Make, made_by

JSON, JUNIT, HTML = "json", "junit", "html"
_FORMS: Mapping[str, Callable[[Verdict], str]] = {
    JSON: lambda verdict: json.dumps(verdict.to_json(), indent=1) + "\n",
    JUNIT: junit,
    HTML: page,
}


def checks_in(file: Path) -> tuple[tuple[str, Make], ...]:
    """The checks that a Python file lists in INVARIANTS. Raises UsageError."""
    try:
        return made_by(runpy.run_path(str(file)))
    except BadInvariants as e:
        raise UsageError(f"{file}: {e}") from e
    except Exception as e:
        # It is the user's code: whatever it raises, it cannot be loaded.
        raise UsageError(f"{file} cannot be loaded: {type(e).__name__}: {e}") from e


def write(verdict: Verdict, files: Mapping[str, Path | None]) -> None:
    """Write the verdict in each form that has a file. Raises ClusterError."""
    for form, file in files.items():
        if file is None:
            continue
        try:
            file.write_text(_FORMS[form](verdict))
        except OSError as e:
            raise ClusterError(f"cannot write {file}: {e.strerror}") from e


__all__ = ["HTML", "JSON", "JUNIT", "Verdict", "checks_in", "table", "write"]
