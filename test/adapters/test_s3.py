"""What S3 alone does: files in parts, and doors that stay shut. The real driver against a server of our own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_stores import Remote
from s3_server import SECRET, s3, settings
from s3fs import S3FileSystem

from vlaforget_ros.adapters import transport
from vlaforget_ros.adapters.partials import held
from vlaforget_ros.errors import AdapterError, ErrorCode

_URL = "s3://fleet/lab/large.tar"
# From two of its parts of 50 MiB on the driver sends a file in parts.
_LARGE = 101 * 1024 * 1024


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    S3FileSystem.clear_instance_cache()
    with s3() as remote:
        for name, value in settings(remote.url).items():
            monkeypatch.setenv(name, value)
        yield remote
    S3FileSystem.clear_instance_cache()


def test_a_large_file_goes_in_parts_and_comes_back_from_where_it_stopped(
    bucket: Remote, tmp_path: Path
) -> None:
    content = os.urandom(1024) * (_LARGE // 1024)
    transport.upload(transport.locate(_URL), iter([content]), len(content))
    assert sum(line.startswith("PUT") for line in bucket.asked) == 3
    assert bucket.files == {"lab/large.tar": content}
    assert not bucket.uploads
    bucket.asked.clear()
    kept = _LARGE - 5000
    (tmp_path / "here.part").write_bytes(content[:kept])
    with held(tmp_path, "here") as target:
        transport.download(transport.look(transport.locate(_URL), 2 * _LARGE), target, 2 * _LARGE)
        assert target.path.read_bytes() == content
    (asked,) = [line for line in bucket.asked if line.startswith("GET") and "bytes=" in line]
    assert f"bytes={kept}-" in asked


def test_an_upload_that_fails_between_its_parts_leaves_what_was_there(bucket: Remote) -> None:
    bucket.files["lab/large.tar"] = b"before"
    bucket.refuses = "partNumber=3"
    with pytest.raises(AdapterError) as caught:
        transport.upload(transport.locate(_URL), iter([bytes(_LARGE)]), _LARGE)
    assert caught.value.code == ErrorCode.ADAPTER_DISK
    assert bucket.files == {"lab/large.tar": b"before"}
    assert not bucket.uploads, "its parts are paid for until somebody aborts the upload"


def test_a_key_that_the_place_does_not_know_is_refused_and_its_secret_not_said(
    bucket: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.files["lab/large.tar"] = b"content"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOFSOMEBODY")
    with pytest.raises(AdapterError) as caught:
        transport.look(transport.locate(_URL), _LARGE)
    assert caught.value.code == ErrorCode.ADAPTER_DISK
    assert SECRET not in str(caught.value)
    with pytest.raises(AdapterError) as caught:
        transport.upload(transport.locate(_URL), iter([b"other"]), 5)
    assert caught.value.code == ErrorCode.ADAPTER_DISK
    assert bucket.files == {"lab/large.tar": b"content"}
