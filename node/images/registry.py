"""Images from registries, by the OCI distribution API 1.1: manifests and blobs over HTTP, tokens, mirrors.

What a registry says is checked as what archives say: content by its digest, documents by their size. Whoever sends
nothing for a while is given up; what came of a pull stays for the next one, blob by blob.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from rayplane.node.images.catalog import Credentials, Stored
from rayplane.node.images.credentials import Auth
from rayplane.node.images.errors import BadImage, ImageError, ImageNotFound, RegistryDenied, RegistryFailed
from rayplane.node.images.manifests import (
    DOCUMENT_MAX,
    INDEXES,
    MANIFESTS,
    Descriptor,
    checked,
    chosen,
    digest_of,
    document,
    media_type,
    read_index,
    read_manifest,
)
from rayplane.node.images.platforms import architecture
from rayplane.node.images.references import Reference
from rayplane.node.images.registries import Registries
from rayplane.node.images.store import ImageStore

T = TypeVar("T")
QUIET_S = 60.0
"""A registry that sends nothing for so long is given up."""
SLOWEST, SLOW_FROM_S = 1024, QUIET_S
"""Bytes in a second: who sends content slower, after so long, only keeps others from pulling."""
PART_BYTES = 1024 * 1024
TOKEN_MAX = 64 * 1024
INDEXES_MAX = 4
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class RegistryClient:
    """A client of registries for one store. `run`: carries out work that blocks, in a thread."""

    def __init__(self, store: ImageStore, registries: Registries, run: Callable[..., Awaitable[Any]]) -> None:
        self._store, self.registries, self._run = store, registries, run
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def fetch(self, reference: Reference, auth: Auth | None) -> Descriptor:
        """Have the content of an image in the store. Raises ImageError, OSError."""
        errors: list[ImageError] = []
        for address in self.registries.addresses(reference):
            try:
                return await _Pull(self, address, reference, auth).fetch()
            except (RegistryFailed, ImageNotFound, RegistryDenied) as e:
                errors.append(e)
        raise errors[-1]

    async def image(self, reference: Reference, auth: Auth | None, *, source: str, credentials: Credentials) -> Stored:
        """An image fetched, known to the store. Raises ImageError, OSError."""
        working = await self._run(self._store.begin_work)
        try:
            fetched = await self.fetch(reference, auth)
            names = [reference] if reference.tag and not reference.digest else []

            def add() -> Stored:
                return self._store.add(
                    fetched, names, source=source, repository=reference.name, credentials=credentials
                )

            found: Stored = await self._run(add)
            return found
        finally:
            await self._run(working.close)

    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=QUIET_S, sock_read=QUIET_S)
            self._session = aiohttp.ClientSession(timeout=timeout, auto_decompress=False, trust_env=True)
        return self._session

    async def keep(self, content: Descriptor, parts: AsyncIterator[bytes]) -> None:
        writer = await self._run(self._store.blobs.writer, content.digest, content.size)
        try:
            async for part in parts:
                await self._run(writer.write, part)
            await self._run(writer.finish)
        finally:
            await self._run(writer.close)

    def has(self, content: Descriptor) -> bool:
        return self._store.blobs.has(content.digest, content.size)

    async def keep_document(self, data: bytes, digest: str) -> None:
        await self._run(lambda: self._store.blobs.add([data], digest=digest))


class _Pull:
    """One image from one address."""

    def __init__(self, client: RegistryClient, address: str, reference: Reference, auth: Auth | None) -> None:
        self._client, self._reference, self._auth = client, reference, auth
        self._base = f"{address.rstrip('/')}/v2/{reference.repository}"
        self._headers: dict[str, str] = {}

    async def fetch(self) -> Descriptor:
        reference = self._reference
        data, kind = await self._manifest(reference.digest or reference.tag)
        if reference.digest:
            checked(data, reference.digest)
        for _ in range(INDEXES_MAX):
            if kind not in INDEXES:
                break
            one = chosen(read_index(document(data, "an index")), architecture())
            data, kind = await self._manifest(one.digest)
            checked(data, one.digest)
        if kind not in MANIFESTS:
            raise BadImage(f"{reference} is a {kind[:100]!r}, which containers do not run from")
        manifest = read_manifest(document(data, "a manifest"))
        for content in (manifest.config, *manifest.layers):
            if not self._client.has(content):
                await self._client.keep(content, self._blob(content))
        digest = digest_of(data)
        await self._client.keep_document(data, digest)
        return Descriptor(kind, digest, len(data))

    async def _manifest(self, name: str) -> tuple[bytes, str]:
        async with self._get(f"manifests/{name}", {"Accept": ", ".join((*MANIFESTS, *INDEXES))}) as answer:
            data = await _limited(answer, DOCUMENT_MAX)
        return data, media_type(document(data, "a manifest"))

    async def _blob(self, content: Descriptor) -> AsyncIterator[bytes]:
        clock, got = asyncio.get_running_loop().time, 0
        until = clock() + SLOW_FROM_S
        async with self._get(f"blobs/{content.digest}", {}) as answer:
            async for part in answer.content.iter_chunked(PART_BYTES):
                yield part
                got += len(part)
                if clock() > until + got / SLOWEST:
                    raise RegistryFailed(f"{answer.url.host} sends {content.digest} slower than {SLOWEST} bytes/s")

    @asynccontextmanager
    async def _get(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """A good answer. Credentials are shown when they are asked for, and to nobody a redirect leads to."""
        session, url = self._client.session(), URL(f"{self._base}/{path}", encoded=False)
        try:
            answer = await session.get(url, headers={**headers, **self._headers})
            if answer.status == 401:
                challenge = answer.headers.get("WWW-Authenticate", "")
                answer.release()
                self._headers = await self._authorized(challenge)
                answer = await session.get(url, headers={**headers, **self._headers})
            try:
                self._check(answer)
                yield answer
            finally:
                answer.close()
        except (aiohttp.ClientError, TimeoutError, ValueError) as e:
            raise RegistryFailed(f"failed to do request: {self._base}/{path}: {e or type(e).__name__}") from e

    def _check(self, answer: aiohttp.ClientResponse) -> None:
        what = str(self._reference)
        if answer.status in (401, 403):
            raise RegistryDenied(f"pull access denied for {what}: the repository does not exist or wants credentials")
        if answer.status == 404:
            raise ImageNotFound(f"failed to resolve reference {what}: not found")
        if answer.status != 200:
            raise RegistryFailed(f"unexpected status from GET request to {answer.url.host}: {answer.status}")

    async def _authorized(self, challenge: str) -> dict[str, str]:
        """Headers that answer a challenge (RFC 9110, 11.6.1; distribution's token authentication)."""
        scheme, auth = challenge.partition(" ")[0].lower(), self._auth
        if scheme == "basic" and auth is not None and auth.user:
            return {"Authorization": aiohttp.encode_basic_auth(auth.user, auth.password)}
        if scheme == "bearer" and auth is not None and auth.registry_token:
            return {"Authorization": f"Bearer {auth.registry_token}"}
        said = dict(_CHALLENGE.findall(challenge))
        if scheme != "bearer" or "realm" not in said:
            raise RegistryDenied(f"pull access denied for {self._reference}: it wants credentials")
        query = {"scope": f"repository:{self._reference.repository}:pull"}
        query |= {name: said[name] for name in ("service", "scope") if said.get(name)}
        return {"Authorization": f"Bearer {await self._token(said['realm'], query)}"}

    async def _token(self, realm: str, query: Mapping[str, str]) -> str:
        url, auth = URL(realm), self._auth
        if url.scheme not in ("https", URL(self._base).scheme):
            raise RegistryDenied(f"{self._reference}: its registry wants credentials to be sent without encryption")
        session = self._client.session()
        headers = {}
        if auth is not None and auth.user and not auth.identity_token:
            headers["Authorization"] = aiohttp.encode_basic_auth(auth.user, auth.password)
        if auth is not None and auth.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": auth.identity_token,
                "client_id": "rayplane",
                **query,
            }
            request = session.post(url, data=form)
        else:
            request = session.get(url.update_query(query), headers=headers)
        async with request as answer:
            self._check(answer)
            found = document(await _limited(answer, TOKEN_MAX), "a token")
        token = found.get("token") or found.get("access_token")
        if not isinstance(token, str) or not token.isprintable():
            raise RegistryFailed(f"{url.host} gave no token for {self._reference}")
        return token


async def _limited(answer: aiohttp.ClientResponse, most: int) -> bytes:
    data = b""
    async for part in answer.content.iter_chunked(PART_BYTES):
        data += part
        if len(data) > most:
            raise BadImage(f"{answer.url.host} sends a document of more than {most} bytes")
    return data
