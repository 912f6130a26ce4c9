"""Errors of a member's start."""


class RefusedToStart(Exception):
    """The member cannot run with this data directory and configuration; the message says what to do."""


class DataLost(RefusedToStart):
    """The member does not have any more what it acknowledged, so it may not take part under its id again."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}; this member may not take part any more: remove it from the cluster, delete its data directory "
            "and add it as a new one"
        )
