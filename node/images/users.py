"""Users of images: a name in an image's config becomes numbers by the image's own /etc/passwd and /etc/group. Pure.

Source: passwd(5), group(5), and the OCI image format's `User`: `user`, `uid`, `user:group`, `uid:gid`, mixed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from rayplane.node.errors import ContainerConfigError

NUMBER_MAX = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Accounts:
    """The text of an image's files; empty where it has none."""

    passwd: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class User:
    """A user with its groups. `named`: the config gave a name, so that nobody knows the number beforehand."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = ""
    named: bool = False


def user_of(said: str, accounts: Accounts) -> User:
    """The user that a config names. Raises ContainerConfigError for a name that the image does not know."""
    name, colon, group = said.partition(":")
    found = _user(name or "0", accounts)
    if not colon:
        return found
    return User(found.uid, _group(group, accounts), (), found.home, found.named)


def user_numbered(uid: int, accounts: Accounts) -> User:
    """A user by number, with what the image knows of it: else with group 0."""
    for name, number, gid, home in _people(accounts):
        if number == uid:
            return User(uid, gid, _groups_with(name, accounts), home)
    return User(uid, 0)


def _user(name: str, accounts: Accounts) -> User:
    for known, uid, gid, home in _people(accounts):
        if known == name:
            return User(uid, gid, _groups_with(name, accounts), home, named=not name.isdigit())
    number = _number(name)
    if number is None:
        raise ContainerConfigError(f"unable to find user {name}: no matching entries in passwd file of the image")
    return user_numbered(number, accounts)


def _group(name: str, accounts: Accounts) -> int:
    for known, gid, _ in _groups(accounts):
        if known == name:
            return gid
    number = _number(name)
    if number is None:
        raise ContainerConfigError(f"unable to find group {name}: no matching entries in group file of the image")
    return number


def _groups_with(name: str, accounts: Accounts) -> tuple[int, ...]:
    return tuple(gid for _, gid, members in _groups(accounts) if name in members)


def _people(accounts: Accounts) -> Iterator[tuple[str, int, int, str]]:
    """Name, number, group and home of each user; lines that are none are passed over, as the C library does."""
    for line in accounts.passwd.splitlines():
        name, uid, gid, home = ([*line.split(":"), "", "", "", "", "", ""][n] for n in (0, 2, 3, 5))
        numbers = _number(uid), _number(gid)
        if name and numbers[0] is not None and numbers[1] is not None:
            yield name, numbers[0], numbers[1], home


def _groups(accounts: Accounts) -> Iterator[tuple[str, int, list[str]]]:
    for line in accounts.group.splitlines():
        name, _, gid, members = [*line.split(":"), "", "", ""][:4]
        number = _number(gid)
        if name and number is not None:
            yield name, number, members.split(",")


def _number(text: str) -> int | None:
    if text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= NUMBER_MAX:
        return int(text)
    return None
