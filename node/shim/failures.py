"""Reasons why a program did not start, in words and as an exit code. Pure."""

from typing import Any

ERROR_CHARS = 1000


def exit_code(error: Exception, message: dict[str, Any]) -> int:
    """As a shell says: 127 when there is no such program, 126 when it cannot be run."""
    return 127 if isinstance(error, FileNotFoundError) and error.filename == message["argv"][0] else 126


def describe(error: Exception, message: dict[str, Any]) -> str:
    argv = message.get("argv")
    program = argv[0] if isinstance(argv, list) and argv else ""
    said = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename == program:
        if isinstance(error, FileNotFoundError):
            said = f'exec: "{program}": executable file not found in $PATH'
        elif isinstance(error, PermissionError):
            said = f'exec: "{program}": permission denied'
    return said[:ERROR_CHARS]
