"""The object store in an S3 bucket: AWS, Cloudflare R2, MinIO, rclone, or whatever speaks S3."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)

from core.errors import DigestMismatch, DiskFull, HearthError, ObjectMissing, PartAway
from core.limits import (
    S3_ATTEMPTS_MAX,
    S3_CONNECT_TIMEOUT_S,
    S3_PART_BYTES,
    S3_PARTS_AT_ONCE,
    S3_READ_TIMEOUT_S,
    STORE_CHUNK_BYTES,
)
from core.settings import Settings
from storage.store import PART, check_copy, check_key, check_prefix, is_key, place_verified

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_TRANSFER: Final = TransferConfig(
    multipart_threshold=S3_PART_BYTES + 1,
    multipart_chunksize=S3_PART_BYTES,
    max_concurrency=S3_PARTS_AT_ONCE,
)
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_DAMAGED = frozenset({"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"})
_FULL = frozenset({"InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"})
_FORBIDDEN = frozenset({401, 403})
_STREAM_BROKE = (HTTPClientError, IncompleteReadError)
_CHECK_KEYS = "check HEARTH_S3_KEY_ID, HEARTH_S3_SECRET and HEARTH_S3_SESSION_TOKEN"


class S3Store:
    """Objects in one bucket, which must exist. The client reconnects by itself."""

    def __init__(self, settings: Settings) -> None:
        self._bucket = settings.s3_bucket
        self._where = f"{settings.s3_endpoint or 'S3'}, bucket {settings.s3_bucket}"
        with self._translated():
            session = boto3.session.Session()
            self._s3 = _client(session, settings, attempts=S3_ATTEMPTS_MAX)
            # A ping is asked again soon anyway.
            self._probe = _client(session, settings, attempts=1)

    def put(self, key: str, path: Path) -> None:
        """See ObjectStore. An object of another size is replaced."""
        digest = check_key(key)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise DigestMismatch(f"the bytes of {path.name} are not those of {key}", key=key)
            size = file.tell()
            if self._size(key) == size:
                return
            file.seek(0)
            # Every part's SHA-256 is in the request's signature, so S3 refuses damaged bytes.
            with self._translated(key):
                if size <= S3_PART_BYTES:
                    self._s3.put_object(Bucket=self._bucket, Key=key, Body=file)
                else:
                    self._s3.upload_fileobj(file, self._bucket, key, Config=_TRANSFER)

    def fetch(self, key: str, to: Path) -> None:
        """See ObjectStore. A transfer that breaks off is begun again a few times."""
        check_key(key)
        with self._translated(key):
            for attempt in range(1, S3_ATTEMPTS_MAX + 1):
                answer = self._s3.get_object(Bucket=self._bucket, Key=key)
                with contextlib.closing(answer["Body"]) as body:
                    try:
                        place_verified(key, body.iter_chunks(STORE_CHUNK_BYTES), to)
                        return
                    except _STREAM_BROKE:
                        if attempt == S3_ATTEMPTS_MAX:
                            raise

    def copy(self, key: str, to: str) -> None:
        """See ObjectStore. Between two places of the bucket: the bytes do not come here."""
        check_copy(key, to)
        if self._size(to) is None:
            with self._translated(key):
                # One request does for up to 5 GiB, and no layer is that large.
                self._s3.copy_object(
                    CopySource={"Bucket": self._bucket, "Key": key}, Bucket=self._bucket, Key=to
                )

    def exists(self, key: str) -> bool:
        """See ObjectStore."""
        check_key(key)
        if self._size(key) is not None:
            return True
        with self._translated():
            self._s3.head_bucket(Bucket=self._bucket)  # or is the whole bucket missing?
        return False

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        check_key(key)
        with contextlib.suppress(ObjectMissing), self._translated(key):
            self._s3.delete_object(Bucket=self._bucket, Key=key)

    def keys(self, prefix: str) -> Iterator[str]:
        """See ObjectStore."""
        check_prefix(prefix)
        with self._translated():
            pages = self._s3.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=prefix):
                found = (item["Key"] for item in page.get("Contents", ()))
                yield from filter(is_key, found)

    def ping(self) -> None:
        """See ObjectStore."""
        with self._translated():
            self._probe.head_bucket(Bucket=self._bucket)

    def close(self) -> None:
        """Let go of connections."""
        self._s3.close()
        self._probe.close()

    def _size(self, key: str) -> int | None:
        with contextlib.suppress(ObjectMissing), self._translated(key):
            head = self._s3.head_object(Bucket=self._bucket, Key=key)
            return int(head["ContentLength"])
        return None

    @contextlib.contextmanager
    def _translated(self, key: str = "") -> Iterator[None]:
        """Turn what botocore raises into our errors, saying what to do about it."""
        try:
            yield
        except ClientError as error:
            raise self._refusal(error, key) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise self._is_away(f"no usable credentials: {_CHECK_KEYS}") from error
        except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
            raise self._is_away(f"{error} Check HEARTH_S3_ENDPOINT.") from error

    def _refusal(self, error: ClientError, key: str) -> HearthError:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _MISSING and key:
            return ObjectMissing(f"no object {key}", key=key)
        if code == "NoSuchBucket" or code in _MISSING:
            return self._is_away("no such bucket: create it, or mend HEARTH_S3_BUCKET")
        if code in _DAMAGED:
            return DigestMismatch(f"the bytes of {key} were damaged on their way", key=key)
        if code in _FULL:
            return DiskFull(f"no room left in {self._where}: free some, then try again")
        if status in _FORBIDDEN:
            return self._is_away(f"it refuses us ({code}): {_CHECK_KEYS}")
        return self._is_away(f"it answered {status} {code}: {error}")

    def _is_away(self, message: str) -> PartAway:
        return PartAway(PART, f"{self._where}: {message}")


def _client(session: boto3.session.Session, settings: Settings, *, attempts: int) -> S3Client:
    """A thread-safe client. Nothing is contacted until it is used."""
    credentials: dict[str, Any] = {}
    if settings.s3_key_id:
        credentials = {
            "aws_access_key_id": settings.s3_key_id,
            "aws_secret_access_key": settings.s3_secret,
            "aws_session_token": settings.s3_session_token or None,
        }
    config = Config(
        connect_timeout=S3_CONNECT_TIMEOUT_S,
        read_timeout=S3_READ_TIMEOUT_S,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        # Stores other than AWS's own do not all know the newer trailing checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={
            "addressing_style": "path" if settings.s3_path_style else "auto",
            "payload_signing_enabled": True,
        },
    )
    return session.client(
        "s3",
        region_name=settings.s3_region,
        endpoint_url=settings.s3_endpoint or None,
        config=config,
        **credentials,
    )
