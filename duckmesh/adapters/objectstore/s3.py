"""A bucket as object store.

s3fs builds and owns the connection; requests go to its client directly, because s3fs drops request parameters that
it does not know (a create-if-absent would become an overwrite) and repeats requests out of our sight.
"""

import asyncio
import base64
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

from attrs import frozen
from s3fs import S3FileSystem

from duckmesh.adapters.objectstore.paths import checked_path, checked_prefix, contiguous
from duckmesh.adapters.objectstore.s3_errors import DRIVER_ERRORS, ChecksumMismatch, is_transient, translated
from duckmesh.domain.errors import DataCorrupt, ObjectExists, ObjectMissing, Unavailable
from duckmesh.ports.objectstore import LocationKind, ObjectLocation, S3Access, StoredObject

R = TypeVar("R")

MIB = 1024 * 1024
PART_BYTES = 16 * MIB  # S3 takes parts from 5 MiB, and 10,000 of them
PARTS_AT_ONCE = 4
HASHED_IN_PLACE_BYTES = 256 * 1024  # under 0.2 ms; more is hashed in a thread
SLOWEST_BYTES_PER_S = MIB
ABORT_S = 5.0  # a cancelled put does not wait longer
CONNECT_S = 3.0
CONNECTIONS = 64
READS_BEFORE_CORRUPT = 3  # a mismatch may come from the way; the same one three times does not
MARK = "duckmesh-put"  # metadata that says which put made the object


@frozen
class RetryPolicy:
    """How long a call goes on: it starts no attempt after ``give_up_after_s``, and an attempt takes ``attempt_s``.

    An attempt that carries data may take longer, by a second per MiB.
    """

    give_up_after_s: float = 30.0
    attempt_s: float = 15.0
    first_delay_s: float = 0.05
    longest_delay_s: float = 2.0

    def delay_s(self, failures: int) -> float:
        """How long to wait after so many failures: anything up to a bound that doubles ("full jitter")."""
        bound = min(self.longest_delay_s, self.first_delay_s * 2 ** min(failures - 1, 30))
        return random.uniform(0, bound)  # noqa: S311 - spreads load, guards nothing


class S3ObjectStore:
    """Objects are keys of ``bucket`` under ``prefix``; an async context manager, or `open` and `aclose`.

    Without keys in ``access`` the AWS chain of credentials is used. ``access.endpoint`` is a URL; without a scheme
    it means https.
    """

    def __init__(self, bucket: str, prefix: str, access: S3Access, retry: RetryPolicy | None = None) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._access = access
        self._retry = retry or RetryPolicy()
        self._client: Any = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Prepare the connections of this event loop; asks the server nothing."""
        self._client = await _file_system(self._access, self._retry).set_session()

    async def aclose(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.__aexit__(None, None, None)

    async def put(self, path: str, data: bytes | memoryview) -> StoredObject:
        """Create the object; raises `ObjectExists`, or `Unavailable`, after which the object may exist.

        A create whose answer was lost is refused when it is repeated, by us or by the HTTP client, and the object
        that refuses it is then our own. So each put leaves its own mark in the object, and a refusal is checked.
        """
        key, view, mark = self._key(path), contiguous(data), uuid4().hex
        create = self._create_at_once if view.nbytes <= 2 * PART_BYTES else self._create_in_parts
        try:
            await create(path, key, view, mark)
        except ObjectExists:
            found = await self._head(path)
            if found is None:
                raise Unavailable(f"the object {path!r} was refused and is not there", path=path) from None
            if found["Metadata"].get(MARK) != mark:
                raise
        return StoredObject(path, view.nbytes)

    async def get(self, path: str) -> bytes:
        """The whole object; raises `ObjectMissing`, and `DataCorrupt` when the server's checksum does not fit."""
        mismatches = 0

        async def read() -> bytes:
            nonlocal mismatches
            try:
                return await self._read(self._key(path))
            except ChecksumMismatch as error:
                mismatches += 1
                if mismatches < READS_BEFORE_CORRUPT:
                    raise
                raise DataCorrupt(f"the object {path!r} does not match its checksum", path=path) from error

        return await self._retried(path, read)

    async def stat(self, path: str) -> StoredObject | None:
        """The object's size, or None when it is not there."""
        found = await self._head(path)
        return None if found is None else StoredObject(path, found["ContentLength"])

    async def delete(self, path: str) -> None:
        """Remove the object; one that is not there is fine."""
        with suppress(ObjectMissing):
            await self._call(path, "delete_object", Key=self._key(path))

    async def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """All objects whose path starts with ``prefix``, in pages of a thousand."""
        start = self._prefix + checked_prefix(prefix)
        page: dict[str, Any] = {"NextContinuationToken": None}
        while "NextContinuationToken" in page:
            token = page["NextContinuationToken"]
            more = {"ContinuationToken": token} if token else {}
            page = await self._call(prefix, "list_objects_v2", Prefix=start, **more)
            for entry in page.get("Contents", ()):
                if not entry["Key"].endswith("/"):  # a marker that a file browser left for a folder
                    yield StoredObject(entry["Key"].removeprefix(self._prefix), entry["Size"])

    def locate(self, path: str) -> ObjectLocation:
        """The object's ``s3://`` URL."""
        return ObjectLocation(LocationKind.S3, f"s3://{self._bucket}/{self._key(path)}")

    async def remove_leftovers(self, older_than: timedelta) -> int:
        """Abort uploads in parts that nobody completed, and say how many they were: their parts cost storage."""
        before, aborted = datetime.now(UTC) - older_than, 0
        page: dict[str, Any] = {}
        while page.get("IsTruncated", True):
            more = {key: page[f"Next{key}"] for key in ("KeyMarker", "UploadIdMarker") if page.get(f"Next{key}")}
            page = await self._call("", "list_multipart_uploads", Prefix=self._prefix, **more)
            for upload in page.get("Uploads", ()):
                if upload["Initiated"] < before:
                    await self._abort(upload["Key"], upload["UploadId"])
                    aborted += 1
        return aborted

    def _key(self, path: str) -> str:
        return self._prefix + checked_path(path)

    async def _create_at_once(self, path: str, key: str, data: memoryview, mark: str) -> None:
        body = bytes(data)
        await self._call(
            path,
            "put_object",
            Key=key,
            Body=body,
            IfNoneMatch="*",
            ChecksumSHA256=await _sha256(body),
            Metadata={MARK: mark},
        )

    async def _create_in_parts(self, path: str, key: str, data: memoryview, mark: str) -> None:
        begun = await self._call(
            path, "create_multipart_upload", Key=key, ChecksumAlgorithm="SHA256", Metadata={MARK: mark}
        )
        try:
            parts = await self._upload_parts(path, key, begun["UploadId"], data)
            await self._call(
                path,
                "complete_multipart_upload",
                Key=key,
                UploadId=begun["UploadId"],
                MultipartUpload={"Parts": parts},
                IfNoneMatch="*",
            )
        except BaseException:
            with suppress(Exception):  # what is left is for remove_leftovers
                async with asyncio.timeout(ABORT_S):
                    await self._abort(key, begun["UploadId"])
            raise

    async def _upload_parts(self, path: str, key: str, upload: str, data: memoryview) -> Sequence[dict[str, Any]]:
        room = asyncio.Semaphore(PARTS_AT_ONCE)

        async def send(number: int, offset: int) -> dict[str, Any]:
            async with room:
                body = bytes(data[offset : offset + PART_BYTES])
                checksum = await _sha256(body)
                stored = await self._call(
                    path,
                    "upload_part",
                    Key=key,
                    UploadId=upload,
                    PartNumber=number,
                    Body=body,
                    ChecksumSHA256=checksum,
                )
                return {"PartNumber": number, "ETag": stored["ETag"], "ChecksumSHA256": checksum}

        offsets = enumerate(range(0, data.nbytes, PART_BYTES), start=1)
        try:
            async with asyncio.TaskGroup() as group:
                sent = [group.create_task(send(number, offset)) for number, offset in offsets]
        except ExceptionGroup as failed:
            first = failed.exceptions[0]
            raise first from first.__cause__
        return [task.result() for task in sent]

    async def _abort(self, key: str, upload: str) -> None:
        with suppress(ObjectExists):  # gone already
            await self._call(key, "abort_multipart_upload", Key=key, UploadId=upload)

    async def _head(self, path: str) -> dict[str, Any] | None:
        try:
            return await self._call(path, "head_object", Key=self._key(path))
        except ObjectMissing:
            return None

    async def _read(self, key: str) -> bytes:
        async with asyncio.timeout(self._retry.attempt_s):
            answer = await self._client.get_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED")
        async with self._time_for(answer["ContentLength"]), answer["Body"] as body:
            read: bytes = await body.read()
            return read

    async def _call(self, path: str, operation: str, **parameters: Any) -> dict[str, Any]:
        async def request() -> dict[str, Any]:
            async with self._time_for(len(parameters.get("Body", b""))):
                answer: dict[str, Any] = await getattr(self._client, operation)(Bucket=self._bucket, **parameters)
                return answer

        return await self._retried(path, request)

    def _time_for(self, size: int) -> asyncio.Timeout:
        return asyncio.timeout(self._retry.attempt_s + size / SLOWEST_BYTES_PER_S)

    async def _retried(self, path: str, attempt: Callable[[], Awaitable[R]]) -> R:
        if self._client is None:
            raise RuntimeError("the store is not open")
        clock = asyncio.get_running_loop().time
        deadline, failures = clock() + self._retry.give_up_after_s, 0
        while True:
            try:
                return await attempt()
            except DRIVER_ERRORS as error:
                failures += 1
                delay = self._retry.delay_s(failures)
                if not is_transient(error) or clock() + delay > deadline:
                    raise translated(error, path) from error
            await asyncio.sleep(delay)


def _file_system(access: S3Access, retry: RetryPolicy) -> S3FileSystem:
    endpoint = access.endpoint
    if endpoint is not None and "://" not in endpoint:
        endpoint = f"https://{endpoint}"
    return S3FileSystem(
        key=access.access_key_id,
        secret=access.secret_access_key,
        token=access.session_token,
        endpoint_url=endpoint,
        client_kwargs={"region_name": access.region},
        config_kwargs={
            "s3": {"addressing_style": "path" if access.url_style == "path" else "virtual"},
            "connect_timeout": CONNECT_S,
            "read_timeout": retry.attempt_s,
            "max_pool_connections": CONNECTIONS,
            "retries": {"total_max_attempts": 1},  # repeating is decided here
            "request_checksum_calculation": "when_required",  # the default breaks servers that are not AWS
            "response_checksum_validation": "when_required",
        },
        asynchronous=True,
        skip_instance_cache=True,
        use_listings_cache=False,
    )


async def _sha256(body: bytes) -> str:
    if len(body) <= HASHED_IN_PLACE_BYTES:
        return _sha256_now(body)
    return await asyncio.to_thread(_sha256_now, body)


def _sha256_now(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()
