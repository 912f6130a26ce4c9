"""A cluster's secrets are nowhere in its state directory or its backup, and only its own keys open them."""

import base64
from pathlib import Path

import pytest
import yaml

from rayplane.control_plane.apiserver.storage.encryption import generate
from rayplane.control_plane.cluster.backup import backup
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.launch import _secrets
from rayplane.control_plane.cluster.state import StateDir
from tests.cluster.harness import cluster

WORD = b"a word that stands nowhere else"


def files_with(directory: Path, *words: bytes) -> list[str]:
    """All files below a directory that contain any of these."""
    found = []
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            if any(word in data for word in words):
                found.append(str(path.relative_to(directory)))
    return found


def spellings(word: bytes) -> list[bytes]:
    """A word as it is, and in base64 of base64 (JSON in protobuf in JSON hides nothing)."""
    once = base64.b64encode(word)
    return [word, once, base64.b64encode(once)]


async def test_secrets_are_nowhere_in_plain_text(tmp_path: Path) -> None:
    async with cluster(members=3, nodes=1) as c:
        made = {"kind": "Secret", "apiVersion": "v1", "data": {"word": base64.b64encode(WORD).decode()}}
        await c.api.create("secrets", made | {"metadata": {"name": "door", "namespace": "default"}})
        token = {
            "metadata": {
                "name": "for-default",
                "namespace": "default",
                "annotations": {"kubernetes.io/service-account.name": "default"},
            },
            "type": "kubernetes.io/service-account-token",
        }
        await c.api.create("secrets", token)
        open_text = {"metadata": {"name": "open", "namespace": "default"}, "data": {"word": "an open word"}}
        await c.api.create("configmaps", open_text)
        found = await c.api.get("secrets", "door", "default")
        assert base64.b64decode(found["data"]["word"]) == WORD

        async def signed() -> bytes:
            data = (await c.api.get("secrets", "for-default", "default")).get("data") or {}
            return base64.b64decode(data.get("token") or "")

        words = spellings(WORD)
        token_text = await signed()
        if token_text:
            words += spellings(token_text)
        await backup(c.directory, tmp_path / "x.rpbackup", lambda _: None)
        # The members write it out, snapshots included.
        for member in c.topology.instances:
            if member.role.value == "member":
                await c.host.stop(member.name)
        assert files_with(tmp_path, b"an open word") == ["x.rpbackup"]
        assert len(files_with(c.state_dir, b"an open word")) >= 3
        assert files_with(tmp_path, *words) == files_with(c.state_dir, *words) == []
        (entry,) = yaml.safe_load(c.secrets.encryption)["resources"]
        key = entry["providers"][0]["aesgcm"]["keys"][0]["secret"].encode()
        assert files_with(tmp_path, key) == []
        assert files_with(c.state_dir, key) == ["pki/encryption.yaml"]
        assert (c.directory.pki / "encryption.yaml").stat().st_mode & 0o077 == 0


def test_the_keys_are_made_once_kept_and_never_made_up(tmp_path: Path) -> None:
    directory = StateDir(tmp_path)
    made = _secrets("x", directory, b"", encrypted=False)
    assert made.encryption and _secrets("x", directory, b"", encrypted=True) == made
    given = generate(bytes)
    changed = _secrets("x", directory, given, encrypted=True)
    assert (changed.encryption, changed.ca_key) == (given, made.ca_key)
    assert (directory.pki / "encryption.old").read_bytes() == made.encryption
    file = directory.pki / "encryption.yaml"
    file.unlink()
    with pytest.raises(ClusterError, match="put it back"):
        _secrets("x", directory, b"", encrypted=True)
    assert not file.exists()
    # A cluster of before has no keys and nothing encrypted: it gets some.
    assert _secrets("x", directory, b"", encrypted=False).encryption not in (b"", made.encryption)
    with pytest.raises(UsageError, match="--encryption-config: it is no EncryptionConfiguration"):
        _secrets("x", directory, b"{}", encrypted=True)
    file.write_bytes(b"{}")
    with pytest.raises(UsageError, match=r"encryption\.yaml: it is no EncryptionConfiguration"):
        _secrets("x", directory, b"", encrypted=True)
