"""Files that options of `rayplane up` name: their texts, checked where that can be told with the file's name."""

from pathlib import Path

from rayplane.control_plane.cluster.config import NONE
from rayplane.control_plane.cluster.errors import UsageError, refusal

_KUBELET_FLAG = "--kubelet-config"


def text_of(flag: str, asked: str) -> str:
    """The text of the file that is asked for."""
    return asked if asked in ("", NONE) else content(flag, Path(asked)).decode(errors="replace")


def audit_text(asked: str) -> str:
    """As `text_of`, of an audit policy, of which there is one of ours."""
    from rayplane.control_plane.api.audit import default_policy

    return default_policy() if asked == "default" else text_of("--audit-policy", asked)


def kubelet_text(asked: str) -> str:
    """As `text_of`, of a KubeletConfiguration: what is wrong is told with the file's name and line."""
    from rayplane.control_plane.api.config_files import ConfigFileError
    from rayplane.node.kubelet.config_file import read_kubelet_configuration

    text = text_of(_KUBELET_FLAG, asked)
    try:
        if text not in ("", NONE):
            read_kubelet_configuration(text)
    except ConfigFileError as e:
        raise UsageError(f"{_KUBELET_FLAG} {asked}: {e}") from e
    return text


def admission_text_of(asked: str) -> str:
    """As `text_of`, with what stands in the files that it names."""
    from rayplane.control_plane.apiserver.admission_files import admission_text

    try:
        return asked if asked in ("", NONE) else admission_text(absolute(asked))
    except (OSError, ValueError) as e:
        raise UsageError(f"--admission-control-config-file: {e}") from e


def absolute(path: str) -> str:
    return path if path in ("", NONE) else str(Path(path).absolute())


def followed_path(asked: str) -> str:
    """Where the text that is asked for comes from; empty where it cannot change, as what comes out of a pipe."""
    return absolute(asked) if asked not in ("", NONE) and Path(asked).is_file() else ""


def content(flag: str, file: Path | None) -> bytes:
    """What an option names; empty when it is not given."""
    if file is None:
        return b""
    try:
        data = file.read_bytes()
    except OSError as e:
        raise UsageError(f"{flag} {file}: {refusal(e)}") from e
    if not data.strip():
        raise UsageError(f"{flag} {file}: the file is empty")
    return data
