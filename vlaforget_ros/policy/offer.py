"""What a process that lends its base weights says about them: JSON over a Unix socket, checked before it is used.

One protocol for both kinds of memory. The borrower names the base and the device; the lender answers with an
:class:`Offer` or a refusal. Weights on the CPU lie in one sealed file without a name, whose descriptor comes with the
offer; weights on a GPU are named by handles of CUDA IPC. The connection then stays open: its end tells either side that
the other one is gone. No pickle, nothing in /dev/shm on the CPU, and only processes of one user (the socket lies in a
folder of theirs).
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from vlaforget_ros.errors import ErrorCode, PolicyError

PROTOCOL = 1
LONGEST = 64_000_000
"""Bytes of a message; OpenVLA-7B's offer on a GPU has about one."""
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool)
}
_HEAD = struct.Struct(">Q")
_MOST_FILES = 1
# An address of a Unix socket has 107 bytes; a name in the folder has fewer than 50.
_LONGEST_FOLDER = 56


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Wanted(_Message):
    """What a borrower asks for.

    Args:
        protocol: of this message.
        base: digest of the checkpoint.
        device: as :func:`identity` names it.
    """

    protocol: int
    base: str
    device: str


class CudaHandle(_Message):
    """What ``UntypedStorage._share_cuda_`` says of a storage beside its size and place; bytes in base64."""

    memory: str
    counter: str
    counter_offset: NonNegativeInt
    event: str
    wait: bool


class Region(_Message):
    """One storage.

    Args:
        bytes: of it.
        start: first byte, in the file or in the allocation of the handle.
        handle: on a GPU.
    """

    bytes: NonNegativeInt
    start: NonNegativeInt
    handle: CudaHandle | None = None


class Place(_Message):
    """One tensor: which storage, and where in it, in numbers of its own type."""

    region: NonNegativeInt
    dtype: str
    shape: tuple[NonNegativeInt, ...]
    stride: tuple[NonNegativeInt, ...]
    offset: NonNegativeInt = 0


class Offer(_Message):
    """Weights that can be mapped.

    Args:
        protocol: of this message.
        base: digest of the checkpoint.
        device: as :func:`identity` names it.
        pid: of the lender.
        tied: the memory goes with its lender, and with it what works on it.
        regions: the storages.
        tensors: name in the network -> place.
        refused: why there is nothing to map; "" where there is.
    """

    protocol: int = PROTOCOL
    base: str = ""
    device: str = ""
    pid: int = Field(default_factory=os.getpid)
    tied: bool = False
    regions: tuple[Region, ...] = ()
    tensors: dict[str, Place] = Field(default_factory=dict)
    refused: str = ""


def not_shared(
    why: str, value: object = None, limit: object = None, remedy: str = "each process then has its own copy"
) -> PolicyError:
    """PolicyError 212: weights are not lent or borrowed; whoever asked may still load its own."""
    message = f"base weights are not shared: {why}"
    return PolicyError(ErrorCode.POLICY_NOT_SHARED, message, value=value, limit=limit, remedy=remedy)


def identity(device: torch.device | str) -> str:
    """``cpu``, or ``cuda`` with the UUID of the GPU: its number may differ between two processes."""
    device = torch.device(device)
    if device.type != "cuda":
        return device.type
    return f"cuda {torch.cuda.get_device_properties(device).uuid}"


def kind_of_memory(device: torch.device | str) -> Literal["cpu", "cuda"]:
    """Raises PolicyError 212 for a device whose memory cannot be shared."""
    kind = torch.device(device).type
    if kind not in ("cpu", "cuda"):
        raise not_shared("its memory cannot be lent", value=kind, limit="cpu or cuda")
    return "cuda" if kind == "cuda" else "cpu"


def folders() -> list[Path]:
    """Where sockets of this user may be: below XDG_RUNTIME_DIR, and below the system's temporary folder."""
    roots = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir()]
    return [Path(root) / f"vlaforget-{os.getuid()}" for root in dict.fromkeys(roots) if root]


def own_folder() -> Path:
    """The first of :func:`folders` that can be made and is this user's alone. Raises PolicyError 212."""
    for folder in folders():
        if len(os.fsencode(folder)) > _LONGEST_FOLDER:
            continue
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError:
            continue
        if is_private(folder):
            return folder
    raise not_shared("there is no folder for a socket that is this user's alone", value=folders())


def is_private(folder: Path) -> bool:
    """Whether a folder is no link, belongs to this user, and nobody else may look into it."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def socket_name(base: str, pid: int | str) -> str:
    """File name of a lender's socket. Graphs of other ROS domains have nothing to do with each other."""
    return f"{os.environ.get('ROS_DOMAIN_ID') or 0}-{base[:16]}-{pid}.sock"


def lenders(base: str = "*") -> Iterator[Path]:
    """Sockets of processes of this user that say that they lend a base, or any; some may have ended since."""
    for folder in folders():
        if is_private(folder):
            yield from sorted(folder.glob(socket_name(base, "*")))


def same_user(connection: socket.socket) -> bool:
    """Whether the process at the other end of a connection is of this user."""
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(user) == os.getuid()


def send(connection: socket.socket, message: BaseModel, file: int | None = None) -> None:
    """Send a message, with an open file if there is one. Raises OSError."""
    body = message.model_dump_json().encode()
    socket.send_fds(connection, [_HEAD.pack(len(body))], [] if file is None else [file])
    connection.sendall(body)


def receive(connection: socket.socket) -> tuple[bytes, int | None]:
    """A message as JSON, and the file that came with it. Raises OSError for an end before that of the message."""
    head, files, _, _ = socket.recv_fds(connection, _HEAD.size, _MOST_FILES)
    file = files[0] if files else None
    try:
        if len(head) != _HEAD.size:
            raise ConnectionError("the other side hung up")
        (length,) = _HEAD.unpack(head)
        if length > LONGEST:
            raise ConnectionError(f"a message of {length} bytes")
        body = bytearray()
        while len(body) < length:
            part = connection.recv(min(1 << 20, length - len(body)))
            if not part:
                raise ConnectionError("the other side hung up within a message")
            body += part
    except OSError:
        if file is not None:
            os.close(file)
        raise
    return bytes(body), file
