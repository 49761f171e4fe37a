"""A server that speaks as much of S3 as s3fs needs for one file, small or in parts."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from object_stores import Handler, Remote, served

_DATE = "2026-11-01T00:00:00.000Z"
_HTTP_DATE = "Sun, 01 Nov 2026 00:00:00 GMT"
KEY_ID, SECRET = "AKIAOFATEST", "secret-of-a-test"


class _S3(Handler):
    """One bucket ``fleet``, addressed by path, for whoever has the key."""

    def route(self) -> None:
        # parse_qs of the handler drops names without a value, and S3's verbs are such names.
        self.query = {
            name: values[0]
            for name, values in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()
        }
        if f"Credential={KEY_ID}/" not in self.headers.get("Authorization", ""):
            self.refuse(403, "InvalidAccessKeyId")
        elif self.remote.refuses and re.search(self.remote.refuses, f"{self.command} {self.path}"):
            self.refuse(403, "AccessDenied")
        elif not self.is_whole():
            self.refuse(400, "BadDigest")
        elif self.parts[0] != "fleet":
            self.refuse(404, "NoSuchBucket")
        elif name := "/".join(self.parts[1:]):
            self._object(name)
        else:
            self._bucket()

    def is_whole(self) -> bool:
        """What arrived has the checksum that came with it."""
        told = self.headers.get("x-amz-checksum-crc32")
        return told is None or told == base64.b64encode(zlib.crc32(self.body).to_bytes(4, "big")).decode()

    def _object(self, name: str) -> None:
        files, upload = self.remote.files, self.query.get("uploadId", "")
        match self.command:
            case "GET" | "HEAD" if name in files:
                self.give(files[name], ETag=_etag(files[name]), Last_Modified=_HTTP_DATE)
            case "PUT" if upload:
                self.remote.uploads[upload][int(self.query["partNumber"])] = self.body
                self.say_xml("", ETag=_etag(self.body))
            case "PUT":
                files[name] = self.body
                self.say_xml("", ETag=_etag(self.body))
            case "POST" if "uploads" in self.query:
                upload = f"upload-{len(self.remote.uploads)}"
                self.remote.uploads[upload] = {}
                self.say_xml(
                    f"<InitiateMultipartUploadResult><Bucket>fleet</Bucket><Key>{escape(name)}</Key>"
                    f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
                )
            case "POST" if upload in self.remote.uploads:
                self._complete(name, upload)
            case "DELETE" if upload in self.remote.uploads:
                del self.remote.uploads[upload]
                self.say_xml("", 204)
            case _:
                self.refuse(404, "NoSuchKey")

    def _complete(self, name: str, upload: str) -> None:
        """The object appears now, made of the parts that the client lists with their right tags."""
        listed = {
            int(part.findtext("{*}PartNumber", "0")): part.findtext("{*}ETag")
            for part in ElementTree.fromstring(self.body).findall("{*}Part")
        }
        if listed != {number: _etag(content) for number, content in self.remote.uploads[upload].items()}:
            self.refuse(400, "InvalidPart")
            return
        parts = self.remote.uploads.pop(upload)
        content = self.remote.files[name] = b"".join(parts[number] for number in sorted(parts))
        self.say_xml(
            f"<CompleteMultipartUploadResult><Bucket>fleet</Bucket><Key>{escape(name)}</Key>"
            f"<ETag>{escape(_etag(content))}</ETag></CompleteMultipartUploadResult>"
        )

    def _bucket(self) -> None:
        if self.command == "HEAD":
            self.say_xml("", x_amz_bucket_region="eu-central-1")
        elif "location" in self.query:
            self.say_xml("<LocationConstraint>eu-central-1</LocationConstraint>")
        else:
            self._list()

    def _list(self) -> None:
        start, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        found, folders = [], set()
        for name, content in self.remote.files.items():
            rest = name.removeprefix(start)
            if not name.startswith(start):
                continue
            if delimiter and delimiter in rest:
                folders.add(start + rest.partition(delimiter)[0] + delimiter)
                continue
            found.append(
                f"<Contents><Key>{escape(name)}</Key><LastModified>{_DATE}</LastModified>"
                f"<ETag>{escape(_etag(content))}</ETag><Size>{len(content)}</Size></Contents>"
            )
        found += [
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)
        ]
        self.say_xml(
            f"<ListBucketResult><Name>fleet</Name><Prefix>{escape(start)}</Prefix><KeyCount>{len(found)}</KeyCount>"
            f"<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{''.join(found)}</ListBucketResult>"
        )

    def say_xml(self, value: str, status: int = 200, **headers: str) -> None:
        self.say_bytes(value.encode(), "application/xml", status, **headers)

    def refuse(self, status: int, code: str) -> None:
        self.say_xml(f"<Error><Code>{code}</Code><Message>{code}</Message></Error>", status)


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


@contextmanager
def s3() -> Iterator[Remote]:
    """S3 on this machine; clients find it by AWS_ENDPOINT_URL and are let in with KEY_ID."""
    with served(_S3) as remote:
        yield remote


def settings(url: str) -> dict[str, str]:
    """The environment in which the driver of s3:// finds the server at ``url``, and nothing of the user's."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent/config",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/credentials",
    }
