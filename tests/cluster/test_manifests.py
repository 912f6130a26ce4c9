"""Files of objects."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.cluster.manifests import ManifestError, load, parse

A = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
B = '{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "b"}}\n'


def _names(text: str) -> list[tuple[str, str]]:
    return [(m.source, m.object["metadata"]["name"]) for m in parse(text.encode(), "f")]


def test_documents_are_numbered_and_empty_ones_are_not_counted() -> None:
    text = f"# A file.\n---\n# nothing\n---\n{A}---\n\n--- # again\n{B}...\n---\n"
    assert _names(text) == [("f, document 1", "a"), ("f, document 2", "b")]
    assert _names(A) == [("f", "a")]


def test_separators_inside_text_do_not_separate() -> None:
    text = A + "data:\n  page: |\n    ---\n    title\n"
    (manifest,) = parse(text.encode(), "f")
    assert manifest.object["data"]["page"] == "---\ntitle\n"


def test_lists_are_taken_apart() -> None:
    text = "apiVersion: v1\nkind: List\nitems:\n- " + A.replace("\n", "\n  ") + "\n- " + B
    assert _names(text) == [("f", "a"), ("f", "b")]


def test_times_and_versions_stay_text() -> None:
    (manifest,) = parse((A + "data: {when: 2026-01-02, flag: 'yes'}\n").encode(), "f")
    assert manifest.object["data"] == {"when": "2026-01-02", "flag": "yes"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (A + "---\na: [1\n", "f, document 2: error converting YAML to JSON"),
        ("- a\n- b\n", "f: not an object"),
        ("kind: Pod\n", "f: apiVersion is missing"),
        ("apiVersion: v1\nkind: [Pod]\n", "f: kind is missing"),
        (A + "---\napiVersion: v1\nkind: Pod\n", r"f, document 2: metadata\.name of this Pod is missing"),
        ("apiVersion: v1\nkind: List\nitems: [{kind: Pod}]\n", "f, item 1: apiVersion is missing"),
        ('{"apiVersion": "v1",\n', "f: error converting YAML"),
        ("just text\n", "f: not an object"),
    ],
)
def test_what_is_no_object_is_told_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        parse(text.encode(), "f")


@given(st.binary(max_size=200))
def test_any_bytes_are_objects_or_a_manifest_error(data: bytes) -> None:
    try:
        found = parse(data, "f")
    except ManifestError as e:
        assert str(e).startswith("f")
    else:
        assert all({"apiVersion", "kind"} <= set(m.object) for m in found)


def test_a_directory_stands_for_its_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "2.json").write_text(B)
    (tmp_path / "1.yml").write_text(A)
    (tmp_path / "notes.txt").write_text("no: [")
    assert [m.object["metadata"]["name"] for m in load([str(tmp_path)])] == ["a", "b"]
    assert [m.source for m in load(["-"], stdin=A.encode)] == ["standard input"]


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"there is no file .*nope"):
        load([str(tmp_path / "nope")])
    with pytest.raises(ManifestError, match=r"no \.yaml, \.yml or \.json file in"):
        load([str(tmp_path)])
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    with pytest.raises(ManifestError, match="no objects in"):
        load([str(tmp_path)])
