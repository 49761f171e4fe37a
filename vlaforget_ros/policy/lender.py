"""Lends the base weights of a policy that serves to edits beside it, so that a device holds them once."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
from pathlib import Path

import torch
from pydantic import ValidationError

from vlaforget_ros.policy import offer as protocol
from vlaforget_ros.policy.offer import PROTOCOL, Offer, Wanted, not_shared
from vlaforget_ros.policy.options import read_options
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.regions import lend_cuda, lend_host, withdraw_cuda
from vlaforget_ros.policy.weight_only import is_rounded

_TALK_S = 5.0
_SHM = Path("/dev/shm")


def is_copied(directory: Path, device: str) -> bool:
    """Whether a process that loads a checkpoint makes a copy of its weights.

    On the CPU they are mapped from their files as they are, which needs no lender; on another device, and where
    ``vlaforget.yaml`` asks for another type, they are copies.

    Raises:
        PolicyError: 207 for an unusable ``vlaforget.yaml``.
    """
    return protocol.kind_of_memory(device) != "cpu" or read_options(directory).torch_dtype is not None


class Lender:
    """Answers borrowers until it is closed. Make it before the policy serves: on the CPU its weights are moved.

    Borrowers that are there when it is closed are told. On a GPU the weights stay until the last of them has let go:
    memory that is given to somebody else under a running edit would be read as weights.

    Args:
        policy: that will serve.

    Raises:
        PolicyError: 212 where weights cannot be lent: rounded ones, a device or system without the means, no folder for
            the socket. The policy can serve all the same.
    """

    def __init__(self, policy: VlaPolicy) -> None:
        if is_rounded(policy.model):
            raise not_shared(
                "rounded weights are served, and an edit needs them as stored", limit="weights: stored"
            )
        kind = protocol.kind_of_memory(policy.device)
        folder = protocol.own_folder()
        clean_up(folder)
        self._path = folder / protocol.socket_name(policy.base_digest, os.getpid())
        self._listener = _listening(self._path)
        self._file: int | None = None
        self._kept: object = None
        try:
            if kind == "cpu":
                self._file, regions, tensors = lend_host(policy.model)
            else:
                self._kept, regions, tensors = lend_cuda(policy.model)
        except BaseException:
            self._listener.close()
            self._path.unlink(missing_ok=True)
            raise
        self._offer = Offer(
            base=policy.base_digest,
            device=protocol.identity(policy.device),
            tied=kind == "cuda",
            regions=regions,
            tensors=tensors,
        )
        self.bytes = sum(region.bytes for region in regions)
        self._wake, self._woken = socket.socketpair()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="weights", daemon=True)
        self._thread.start()

    def __enter__(self) -> Lender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lend to nobody any more; returns at once, and borrowers that are there are told."""
        if not self._closing.is_set():
            self._closing.set()
            # Here, not in the thread: a process that ends does not wait for it.
            self._path.unlink(missing_ok=True)
            self._wake.send(b"x")

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as leaving:
            leaving.callback(self._free)
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            borrowers: set[socket.socket] = set()
            withdrawn = False
            while borrowers or not withdrawn:
                for key, _ in selector.select():
                    one = key.fileobj
                    if one is self._listener:
                        new = self._answered()
                        if new is not None:
                            borrowers.add(new)
                            selector.register(new, selectors.EVENT_READ)
                    elif one is self._woken:
                        selector.unregister(self._woken)
                        self._withdraw(selector, borrowers)
                        withdrawn = True
                    elif isinstance(one, socket.socket):
                        # A borrower never says anything more: this is its end.
                        selector.unregister(one)
                        borrowers.discard(one)
                        one.close()

    def _withdraw(self, selector: selectors.BaseSelector, borrowers: set[socket.socket]) -> None:
        selector.unregister(self._listener)
        self._listener.close()
        for borrower in borrowers:
            with contextlib.suppress(OSError):
                borrower.shutdown(socket.SHUT_WR)

    def _answered(self) -> socket.socket | None:
        """A new borrower that has its offer; None for one that was refused or went away."""
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return None
        connection.settimeout(_TALK_S)
        try:
            body, file = protocol.receive(connection)
            if file is not None:
                os.close(file)
            why = self._refusal(connection, body)
            if why:
                protocol.send(connection, Offer(refused=why))
                connection.close()
                return None
            protocol.send(connection, self._offer, self._file)
        except OSError:
            connection.close()
            return None
        return connection

    def _refusal(self, connection: socket.socket, body: bytes) -> str:
        try:
            wanted = Wanted.model_validate_json(body)
        except ValidationError as error:
            return f"not understood: {error.errors()[0]['msg']}"
        if not protocol.same_user(connection):
            return "another user"
        mine = Wanted(protocol=PROTOCOL, base=self._offer.base, device=self._offer.device)
        differs = [name for name in Wanted.model_fields if getattr(wanted, name) != getattr(mine, name)]
        return "; ".join(f"{name} is {getattr(mine, name)} here" for name in differs)

    def _free(self) -> None:
        if self._file is not None:
            os.close(self._file)
        if self._kept is not None:
            # First the counts: a storage that somebody is still said to use would not be freed.
            withdraw_cuda(self._offer.regions)
            self._kept = None
            torch.cuda.ipc_collect()
        self._wake.close()
        self._woken.close()


def clean_up(folder: Path) -> None:
    """Remove what lenders that were killed have left behind: their sockets, and files of PyTorch's reference counts."""
    for path in folder.glob("*.sock"):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.settimeout(_TALK_S)
                probe.connect(str(path))
                continue
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:
                continue
        pid = path.stem.rpartition("-")[2]
        if pid.isdigit() and not Path("/proc", pid).exists():
            # On a GPU only, 80 kB each: torch_PID_RANDOM_NUMBER.
            for left in _SHM.glob(f"torch_{pid}_*"):
                with contextlib.suppress(OSError):
                    left.unlink()


def _listening(path: Path) -> socket.socket:
    # Renamed into place when it listens: one that refuses is taken for dead.
    early = path.with_suffix(".new")
    listener = socket.socket(socket.AF_UNIX)
    try:
        early.unlink(missing_ok=True)
        listener.bind(str(early))
        listener.listen()
        early.rename(path)
    except OSError as error:
        listener.close()
        raise not_shared(f"no socket: {error}", value=path) from error
    return listener
