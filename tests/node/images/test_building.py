"""Images are built as Docker would build them from the same few instructions; equal files give equal digests."""

import os
import stat
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.node.images import trees
from rayplane.node.images.building import Build, Runner, Step
from rayplane.node.images.catalog import Stored
from rayplane.node.images.containers import UPPER
from rayplane.node.images.dockerfile import Plan, expand, read_dockerfile, words_of
from rayplane.node.images.errors import BadImage, TooLarge
from rayplane.node.images.file_capabilities import ATTRIBUTE, RECORD, of_record
from rayplane.node.images.platforms import architecture
from rayplane.node.images.references import parse_reference
from rayplane.node.images.stages import read_stages
from rayplane.node.images.store import ImageStore
from rayplane.node.images.trees import Ignored
from rayplane.node.images.unpacking import OPAQUE
from tests.node.images.tars import DIRECTORY, SYMLINK, entry, kept, laid_over, tar
from tests.tiers import examples

BASE = tar(
    [
        entry("usr/bin", DIRECTORY),
        entry("bin", SYMLINK, linkname="usr/bin"),
        entry("tmp", DIRECTORY, mode=0o1777),
        entry("etc/passwd", data=b"web:x:7:8::/srv:\n"),
    ]
)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    store = ImageStore(tmp_path / "images", None, lambda: 5.0)
    store.prepare()
    return store


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    for name, text in {"app.py": "app", "lib/a.py": "a", "lib/deep/b.py": "b", "lib/note.md": "note"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


class Written:
    """A runner whose commands write what a test says above the image's layers. `ran`: what it was told to run."""

    mounted = frozenset[str]()

    def __init__(self, write: Callable[[Path], None] = lambda upper: None) -> None:
        self.ran: list[Step] = []
        self._write = write

    def run(self, step: Step) -> None:
        self.ran.append(step)
        upper = Path(step.directory, UPPER)
        upper.mkdir()
        self._write(upper)


def build(
    store: ImageStore,
    context: Path,
    text: str,
    base: Stored | None = None,
    *,
    runner: Runner | None = None,
    target: str = "",
    **arguments: str,
) -> Stored:
    stages = read_stages(read_dockerfile(text.encode()), arguments, architecture())
    images = {"base": base} if base is not None else {}
    work = Build(store, context, stages, images, arguments=arguments, runner=runner)
    return work.image([parse_reference("made")], target)


def shown(store: ImageStore, image: Stored) -> Any:
    return laid_over([Path(one) for one in store.ready(image).layers])


def test_a_small_image_of_files_alone(store: ImageStore, context: Path) -> None:
    text = """
    # syntax=whatever
    ARG WHERE=/srv
    FROM scratch
    ARG WHERE
    ARG VERSION=1
    ENV VERSION=${VERSION} GREETING="hello there" PATH=/bin
    WORKDIR $WHERE/app
    # a comment
    COPY app.py \\
      # another
      lib/deep/b.py ./
    COPY --chmod=750 lib /lib
    USER 7:8
    EXPOSE 80 53/udp
    VOLUME ["/data"]
    LABEL a=1 "b c"="d e"
    STOPSIGNAL SIGQUIT
    ENTRYPOINT ["python", "app.py"]
    CMD --verbose $VERSION
    """
    image = build(store, context, text, VERSION="2")
    assert shown(store, image) == {
        "srv": {"app": {"app.py": b"app", "b.py": b"b"}},
        "lib": {"a.py": b"a", "note.md": b"note", "deep": {"b.py": b"b"}},
    }
    config = store.config(image)
    assert config.env == ("VERSION=2", "GREETING=hello there", "PATH=/bin")
    assert (config.entrypoint, config.cmd) == (("python", "app.py"), ("/bin/sh", "-c", "--verbose $VERSION"))
    assert (config.user, config.working_dir, config.stop_signal) == ("7:8", "/srv/app", "SIGQUIT")
    assert config.volumes == ("/data",)
    (own, other) = (Path(one) for one in store.ready(image).layers)
    assert (own / "lib/a.py").stat().st_mode & 0o777 == 0o750 and (other / "srv/app/app.py").stat().st_mtime == 0


def test_the_same_files_give_the_same_image_whenever_they_were_written(
    store: ImageStore, context: Path, tmp_path: Path
) -> None:
    text = "FROM scratch\nCOPY . /\n"
    first = build(store, context, text)
    for path in context.rglob("*"):
        os.utime(path, (9, 9))
    again = ImageStore(tmp_path / "again", None, lambda: 99.0)
    again.prepare()
    assert build(again, context, text).digest == first.digest
    (context / "app.py").write_text("other")
    assert build(again, context, text).digest != first.digest


def test_a_base_is_built_on_as_its_files_lie(store: ImageStore, context: Path) -> None:
    base = kept(store, "base", [BASE], Env=["A=1"], Entrypoint=["base"], Cmd=["x"], User="web")
    text = (
        'FROM base\nCOPY app.py /bin/tool\nCOPY app.py /usr/bin\nCOPY --chown=web app.py /tmp/\nENV B=$A-2\nCMD ["y"]'
    )
    image = build(store, context, text, base)
    assert shown(store, image) == {
        "bin": "usr/bin",
        "usr": {"bin": {"tool": b"app", "app.py": b"app"}},
        "tmp": {"app.py": b"app"},
        "etc": {"passwd": b"web:x:7:8::/srv:\n"},
    }
    config = store.config(image)
    assert (config.env, config.entrypoint, config.cmd, config.user) == (("A=1", "B=1-2"), ("base",), ("y",), "web")
    assert Path(store.ready(image).layers[0], "tmp").stat().st_mode & 0o7777 == 0o1777
    assert store.manifest(image.digest).layers[0] == store.manifest(base.digest).layers[0]
    entry_point = build(store, context, 'FROM base\nENTRYPOINT ["own"]', base)
    assert (store.config(entry_point).entrypoint, store.config(entry_point).cmd) == (("own",), ())


WRONG = {
    "nothing": ("", "begins with FROM"),
    "a copy first": ("COPY a b", "begins with FROM"),
    "a later stage": ("FROM scratch\nCOPY --from=1 a b\nFROM scratch", "line 2: COPY: --from=1: there is no such"),
    "a name of a stage": ("FROM scratch AS 1x", "line 1: FROM: '1x' is no name"),
    "another platform": ("FROM --platform=linux/s390x scratch", "built for this machine"),
    "a cache": ("FROM scratch\nRUN --mount=type=cache true", "line 2: RUN --mount is not done here"),
    "a command": ("FROM scratch\nRUN true", "line 2: RUN: this machine cannot run it"),
    "a trigger": ("FROM scratch\n\nONBUILD RUN true", "line 3: ONBUILD: is not done here"),
    "an archive": ("FROM scratch\nADD files.tar /", "line 2: ADD: 'files.tar' is an archive"),
    "a word": ("FROM scratch\nFROB a", "line 2: FROB: is not done here"),
    "an address": ("FROM scratch\nADD https://a/b /", "fetch it"),
    "a here-document": ("FROM scratch\nCOPY <<EOF /a\nx\nEOF", "here-document"),
    "no target": ("FROM scratch\nCOPY a", "where to"),
    "a source outside": ("FROM scratch\nCOPY ../a /", "outside of the folder"),
    "a target outside": ("FROM scratch\nCOPY app.py ../../a", "does not climb"),
    "no source": ("FROM scratch\nCOPY none /", "line 2: COPY: there is no 'none'"),
    "a link out": ("FROM scratch\nCOPY out /", "leads out"),
    "an unknown owner": ("FROM scratch\nCOPY --chown=web app.py /", "unable to find user web"),
    "an odd mode": ("FROM scratch\nCOPY --chmod=u+x app.py /", "octal"),
    "no value": ("FROM scratch\nENV A=1 B", "has no value"),
    "no name": ("FROM scratch\nARG =1", "name a variable"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_done_is_told_with_its_line(store: ImageStore, context: Path, what: str) -> None:
    text, why = WRONG[what]
    (context / "out").symlink_to("/etc/passwd")
    (context / "files.tar").write_bytes(BASE)
    with pytest.raises(BadImage, match=why):
        build(store, context, text)


STAGES = """
ARG KIND=big
FROM base AS first
ARG KIND
COPY app.py /out/
COPY lib /out/$KIND/
FROM scratch AS unused
COPY none /
FROM ${KIND:+base} AS second
COPY --from=first /out /got
COPY --from=0 /bin/../out/big/*.py /flat/
FROM scratch
ARG TARGETARCH
LABEL arch=$TARGETARCH
COPY --from=second /got/big/deep /deep
COPY --from=second /flat/ /flat
COPY --from=base /bin/tool /tool
"""


def test_a_stage_has_files_of_those_before_it_and_of_images(store: ImageStore, context: Path) -> None:
    layer = tar([entry("usr/bin/tool-2", data=b"tool"), entry("usr/bin/tool", SYMLINK, linkname="tool-2")])
    base = kept(store, "base", [BASE, layer])
    image = build(store, context, STAGES, base)
    assert shown(store, image) == {"deep": {"b.py": b"b"}, "flat": {"a.py": b"a"}, "tool": b"tool"}
    assert len(store.manifest(image.digest).layers) == 3
    second = build(store, context, STAGES, base, target="second")
    assert shown(store, second)["got"] == {
        "app.py": b"app",
        "big": {"a.py": b"a", "note.md": b"note", "deep": {"b.py": b"b"}},
    }
    with pytest.raises(BadImage, match="stages are first, unused, second, 3"):
        build(store, context, STAGES, base, target="none")


def test_what_a_command_changes_is_a_layer(store: ImageStore, context: Path) -> None:
    base = kept(store, "base", [BASE], Env=["A=1"], User="7")

    def write(upper: Path) -> None:
        for name, mode in (("etc", 0o755), ("etc/secret", 0), ("proc", 0o555), ("tmp", 0o1777)):
            (upper / name).mkdir() if name in ("etc", "proc", "tmp") else (upper / name).write_text("s")
            (upper / name).chmod(mode)
        (upper / "etc/b").write_text("one")
        os.link(upper / "etc/b", upper / "etc/a")
        (upper / "etc/link").symlink_to("b")
        os.mknod(upper / "etc/passwd", stat.S_IFCHR, os.makedev(0, 0))
        (upper / "usr").mkdir()
        os.setxattr(upper / "usr", OPAQUE, b"y")

    runner = Written(write)
    text = 'FROM base\nARG B=2\nWORKDIR /w\nRUN make $A it\nRUN ["make", "it"]'
    image = build(store, context, text, base, runner=runner)
    own = shown(store, image)
    assert own["etc"] == {"a": b"one", "b": b"one", "link": "b", "secret": b"s"}
    assert own["usr"] == {} and "proc" not in own
    top = Path(store.ready(image).layers[0])
    assert (top / "etc/secret").lstat().st_mode & 0o777 == 0
    assert (top / "etc/a").stat().st_ino == (top / "etc/b").stat().st_ino
    first, then = runner.ran
    assert (first.words, then.words) == (("/bin/sh", "-c", "make $A it"), ("make", "it"))
    assert (first.env, first.user.uid, first.working_dir) == ({"A": "1", "B": "2"}, 7, "/w")
    assert [*os.listdir(store.root / "making")] == [
        name for name in os.listdir(store.root / "making") if "lock" in name
    ]
    again = build(store, context, text, base, runner=Written(write))
    assert again.digest == image.digest


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file capabilities")
def test_files_keep_the_capabilities_that_a_command_gives_them(store: ImageStore, context: Path) -> None:
    base = kept(store, "base", [BASE])

    def write(upper: Path) -> None:
        for name in ("other", "server"):
            (upper / name).write_text("program")
        os.setxattr(upper / "server", ATTRIBUTE, struct.pack("<6I", 0x03000001, 1 << 10, 0, 0, 0, 1234))

    image = build(store, context, 'FROM base\nRUN ["setcap"]', base, runner=Written(write))
    last = store.manifest(image.digest).layers[-1]
    with store.blobs.open(last.digest) as packed, tarfile.open(fileobj=packed) as layer:
        said = {one.name: of_record(one.pax_headers.get(RECORD, "")) for one in layer}
    assert said == {"other": b"", "server": struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)}


def test_a_command_that_changes_nothing_makes_no_layer(store: ImageStore, context: Path) -> None:
    base = kept(store, "base", [BASE])
    image = build(store, context, "FROM base\nRUN true", base, runner=Written())
    assert len(store.manifest(image.digest).layers) == 1


def test_a_context_without_end_is_too_much(store: ImageStore, context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "FILES_MAX", 3)
    with pytest.raises(BadImage, match="more than 3 files"):
        build(store, context, "FROM scratch\nCOPY . /")
    (context / ".dockerignore").symlink_to("/dev/zero")
    with pytest.raises(TooLarge, match="at most"):
        build(store, context, "FROM scratch\nCOPY app.py /")


def test_links_of_a_folder_are_copied_as_links(store: ImageStore, context: Path) -> None:
    (context / "lib/out").symlink_to("/etc/passwd")
    image = build(store, context, "FROM scratch\nCOPY lib /lib")
    assert shown(store, image)["lib"]["out"] == "/etc/passwd"


def test_what_is_ignored_is_not_copied(store: ImageStore, context: Path) -> None:
    (context / ".dockerignore").write_text("# no\n**/*.md\nlib/deep\n!lib/deep/b.py\n.dockerignore\n")
    image = build(store, context, "FROM scratch\nCOPY . /")
    assert shown(store, image) == {"app.py": b"app", "lib": {"a.py": b"a", "deep": {"b.py": b"b"}}}
    assert [Ignored("a/**/c\n!a/x/c")(path) for path in ("a/c", "a/b/d/c", "a/x/c", "b/c")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$A-${A}x", "1-1x"),
        (r"\$A ${B} ${B:-two} ${A:-two} ${A:+yes} ${B:+yes}", "$A  two 1 yes "),
        ("${B:-$A}", "1"),
        ("${A", "${A"),
        ("$", "$"),
        ("${E-else}${E:-else}", "else"),
    ],
)
def test_variables_are_put_in(text: str, value: str) -> None:
    assert expand(text, {"A": "1", "E": ""}) == value


def test_words_are_taken_apart_as_by_a_shell() -> None:
    assert words_of(r"""a "b c" d\ e 'f "g'h""") == ["a", "b c", "d e", 'f "gh']


@settings(max_examples=examples(300))
@given(st.text(st.sampled_from("FROMARGENVCOPY scratch\n\\\"'$#={}[]:-+/.aA1\t"), max_size=80))
def test_any_text_is_a_dockerfile_or_told_to_be_none(text: str) -> None:
    try:
        for stage in read_stages(read_dockerfile(f"FROM scratch\n{text}".encode()), {}, "amd64"):
            for _ in Plan(stage.instructions, {}, stage.outer).steps():
                pass
    except BadImage:
        pass
