"""Dockerfiles, as far as images are built from them here: instructions read, and variables put in. Pure.

FROM with stages, ARG, ENV, LABEL, COPY, ADD of local files, RUN, USER, WORKDIR, ENTRYPOINT, CMD, SHELL, EXPOSE, VOLUME
and STOPSIGNAL. HEALTHCHECK is passed over, as Kubernetes does; what else there is is refused with its line.
Source: Docker's Dockerfile reference.
"""

import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import orjson

from rayplane.node.images.errors import BadImage

BYTES_MAX = 1024 * 1024
INSTRUCTIONS_MAX = 1000
VALUE_MAX = 64 * 1024
_DIRECTIVE = re.compile(r"#\s*(\w+)\s*=\s*(.*?)\s*$")
_FLAG = re.compile(r"--([a-z]+)(?:=(\S*))?\s+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEREDOC = re.compile(r"<<-?\s*[\"']?[A-Za-z_]")
_WORD = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+""", re.DOTALL)
_FLAGS = {"FROM": {"platform"}, "COPY": {"chown", "chmod", "link", "from"}, "ADD": {"chown", "chmod", "link"}}
PASSED_OVER = ("HEALTHCHECK", "MAINTAINER")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, without its flags."""

    line: int
    name: str
    flags: Mapping[str, str]
    text: str

    @property
    def said(self) -> str:
        return f"{self.name} {self.text}"

    def wrong(self, why: str) -> BadImage:
        return BadImage(f"Dockerfile, line {self.line}: {self.name}: {why}")


@dataclass(frozen=True, slots=True)
class Copy:
    """An order to copy files. `target` is absolute, and ends with '/' where it is a directory; `origin`: the stage or
    image that they are of, by its name; empty: they are of the folder that is built from.
    """

    at: Instruction
    sources: tuple[str, ...]
    target: str
    owner: str = ""
    mode: int | None = None
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """An order to run a command in the image as it is so far."""

    at: Instruction
    words: tuple[str, ...]
    env: Mapping[str, str]
    user: str
    directory: str


@dataclass(frozen=True, slots=True)
class Made:
    """An image's config in the making."""

    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    user: str = ""
    directory: str = ""
    stop_signal: str = ""
    ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()


Order = Copy | Run


def read_dockerfile(data: bytes) -> list[Instruction]:
    """Raises BadImage."""
    if len(data) > BYTES_MAX:
        raise BadImage(f"a Dockerfile has at most {BYTES_MAX} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise BadImage(f"the Dockerfile is no UTF-8: {e}") from e
    found = [_instruction(number, words) for number, words in _logical(text.splitlines())]
    if len(found) > INSTRUCTIONS_MAX:
        raise BadImage(f"a Dockerfile has at most {INSTRUCTIONS_MAX} instructions")
    return found


def _logical(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Number and text of each instruction, continued lines joined and comments left out."""
    escape, heading = "\\", True
    parts: list[str] = []
    first = 0
    for number, line in enumerate(lines, 1):
        directive = _DIRECTIVE.match(line) if heading else None
        if directive is not None:
            escape = directive[2] if directive[1].lower() == "escape" and directive[2] in ("\\", "`") else escape
            continue
        heading = False
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        first = first or number
        if bare.endswith(escape):
            parts.append(line.rstrip()[:-1])
            continue
        yield first, "".join((*parts, line)).strip()
        parts, first = [], 0
    if parts:
        yield first, "".join(parts).strip()


def _instruction(number: int, line: str) -> Instruction:
    name, _, rest = line.partition(" ") if " " in line else line.partition("\t")
    name, rest, flags = name.upper(), rest.strip(), dict[str, str]()
    while (found := _FLAG.match(rest)) is not None and name in (*_FLAGS, "RUN"):
        if found[1] not in _FLAGS.get(name, ()):
            raise BadImage(f"Dockerfile, line {number}: {name} --{found[1]} is not done here")
        flags[found[1]] = found[2] or ""
        rest = rest[found.end() :]
    if _HEREDOC.search(rest) and name in ("RUN", "COPY", "ADD"):
        raise BadImage(f"Dockerfile, line {number}: {name} with a here-document is not done here: use a file")
    return Instruction(number, name, flags, rest)


def expand(text: str, values: Mapping[str, str]) -> str:
    """The text with `$NAME`, `${NAME}`, `${NAME:-else}` and `${NAME:+then}` put in. `\\$` is a dollar."""
    out, at = "", 0
    while at < len(text):
        char = text[at]
        if char == "\\" and text[at + 1 : at + 2] == "$":
            out, at = f"{out}$", at + 2
            continue
        plain = _NAME.match(text, at + 1) if char == "$" else None
        braced = _NAME.match(text, at + 2) if text.startswith("${", at) else None
        if plain is not None:
            out, at = out + values.get(plain[0], ""), plain.end()
        elif braced is not None and (end := text.find("}", braced.end())) >= 0:
            out, at = out + _choice(braced[0], text[braced.end() : end], values), end + 1
        else:
            out, at = out + char, at + 1
        if len(out) > VALUE_MAX:
            raise BadImage(f"a value of the Dockerfile has more than {VALUE_MAX} characters")
    return out


def _choice(name: str, rest: str, values: Mapping[str, str]) -> str:
    value = values.get(name, "")
    if rest.startswith((":-", "-")):
        return value if value or (rest[0] == "-" and name in values) else expand(rest.lstrip(":")[1:], values)
    if rest.startswith((":+", "+")):
        return expand(rest.lstrip(":")[1:], values) if value or (rest[0] == "+" and name in values) else ""
    return value


def words_of(text: str) -> list[str]:
    """Words as a shell takes them apart. Raises BadImage."""
    try:
        return shlex.split(text)
    except ValueError as e:
        raise BadImage(f"{text[:200]!r} of the Dockerfile: {e}") from e


def listed(text: str) -> list[str] | None:
    """The words of the JSON form; None where it is the other."""
    if not text.startswith("["):
        return None
    try:
        found = orjson.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, list) and all(isinstance(one, str) for one in found) else None


class Plan:
    """The instructions of a stage after its FROM, carried out as far as they need no files.

    `arguments`: values given to ARGs; `outer`: those of ARGs before the first FROM. `made`: what is known of the base's
    config. `steps` gives what is to be done, in order, with `made` as it is then.
    """

    def __init__(
        self, instructions: Sequence[Instruction], arguments: Mapping[str, str], outer: Mapping[str, str] | None = None
    ) -> None:
        self._given, self._outer = arguments, outer or {}
        self._args: dict[str, str] = {}
        self._shell: tuple[str, ...] = ("/bin/sh", "-c")
        self.made = Made()
        self._rest = instructions

    @property
    def arguments(self) -> Mapping[str, str]:
        """The values of its ARGs so far."""
        return self._args

    def steps(self) -> Iterator[Order]:
        """Raises BadImage."""
        for one in self._rest:
            order = self._step(one)
            if order is not None:
                yield order

    def _step(self, one: Instruction) -> Order | None:
        if one.name in ("COPY", "ADD"):
            return self._copy(one)
        if one.name == "RUN":
            env = {**self._args, **self.made.env}
            return Run(one, self._command(one), env, self.made.user, self.made.directory or "/")
        try:
            change = _CHANGES[one.name]
        except KeyError:
            raise one.wrong("is not done here") from None
        change(self, one)
        return None

    def _values(self) -> dict[str, str]:
        return {**self._args, **self.made.env}

    def _text(self, one: Instruction) -> str:
        found = expand(one.text, self._values())
        if not found.strip():
            raise one.wrong("says nothing")
        return found

    def _copy(self, one: Instruction) -> Copy:
        values = self._values()
        words = [expand(word, values) for word in listed(one.text) or words_of(one.text)]
        if len(words) < 2:
            raise one.wrong("name what is copied, and where to")
        *sources, target = words
        if one.name == "ADD" and any("://" in word or word.startswith("git@") for word in sources):
            raise one.wrong("of an address is not done here: fetch it, and copy it")
        place = posixpath.join(self.made.directory or "/", target)
        if ".." in place.split("/"):
            raise one.wrong("a target does not climb by '..'")
        directory = target.endswith(("/", "/.")) or target == "." or len(sources) > 1
        place = posixpath.normpath(f"/{place.lstrip('/')}") + ("/" if directory else "")
        mode = one.flags.get("chmod", "")
        if mode and not re.fullmatch(r"[0-7]{3,4}", mode):
            raise one.wrong(f"--chmod={mode}: use octal digits")
        owner = expand(one.flags.get("chown", ""), values)
        return Copy(one, tuple(sources), place, owner, int(mode, 8) if mode else None, one.flags.get("from", ""))

    def _command(self, one: Instruction) -> tuple[str, ...]:
        words = listed(one.text)
        if words is None:
            if not one.text:
                raise one.wrong("says nothing")
            return (*self._shell, one.text)
        return tuple(words)

    # --- instructions that change the config ------------------------------------------------------

    def _arg(self, one: Instruction) -> None:
        for word in words_of(one.text) or [""]:
            name, given, default = word.partition("=")
            if not _NAME.fullmatch(name):
                raise one.wrong("name a variable")
            outer = self._outer.get(name, "")
            value = self._given.get(name, expand(default, {**self._args, **self.made.env}) if given else outer)
            if given or name in self._given or outer:
                self._args[name] = value

    def _env(self, one: Instruction) -> None:
        self.made = replace(self.made, env={**self.made.env, **self._pairs(one)})

    def _label(self, one: Instruction) -> None:
        self.made = replace(self.made, labels={**self.made.labels, **self._pairs(one)})

    def _pairs(self, one: Instruction) -> dict[str, str]:
        values, found = self._values(), {}
        words = _WORD.findall(one.text)
        if words and "=" not in words[0]:
            name, _, rest = one.text.partition(" ")
            found[name] = expand(rest.strip(), values)
        else:
            for word in words:
                name, given, text = expand(word, values).partition("=")
                if not given:
                    raise one.wrong(f"{name!r} has no value: write NAME=VALUE")
                found["".join(words_of(name))] = " ".join(words_of(text)) if text else ""
        if not found or not all(found):
            raise one.wrong("write NAME=VALUE")
        return found

    def _entrypoint(self, one: Instruction) -> None:
        # As in Docker, an entry point of one's own takes away the base's arguments.
        self.made = replace(self.made, entrypoint=self._command(one), cmd=())

    def _cmd(self, one: Instruction) -> None:
        self.made = replace(self.made, cmd=self._command(one))

    def _user(self, one: Instruction) -> None:
        self.made = replace(self.made, user=self._text(one))

    def _workdir(self, one: Instruction) -> None:
        place = posixpath.join(self.made.directory or "/", self._text(one))
        self.made = replace(self.made, directory=posixpath.normpath(f"/{place.lstrip('/')}"))

    def _stop_signal(self, one: Instruction) -> None:
        self.made = replace(self.made, stop_signal=self._text(one))

    def _expose(self, one: Instruction) -> None:
        ports = [port if "/" in port else f"{port}/tcp" for port in self._text(one).split()]
        self.made = replace(self.made, ports=tuple(dict.fromkeys((*self.made.ports, *ports))))

    def _volume(self, one: Instruction) -> None:
        places = listed(one.text) or self._text(one).split()
        self.made = replace(self.made, volumes=tuple(dict.fromkeys((*self.made.volumes, *places))))

    def _shell_is(self, one: Instruction) -> None:
        words = listed(one.text)
        if not words:
            raise one.wrong('use the form ["/bin/sh", "-c"]')
        self._shell = tuple(words)


_CHANGES = {
    "ARG": Plan._arg,
    "ENV": Plan._env,
    "LABEL": Plan._label,
    "ENTRYPOINT": Plan._entrypoint,
    "CMD": Plan._cmd,
    "USER": Plan._user,
    "WORKDIR": Plan._workdir,
    "STOPSIGNAL": Plan._stop_signal,
    "EXPOSE": Plan._expose,
    "VOLUME": Plan._volume,
    "SHELL": Plan._shell_is,
}
