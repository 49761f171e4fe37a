"""Borrows the base weights of a policy that serves on the same device, in place of loading a copy of its own."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy import offer as protocol
from vlaforget_ros.policy.filling import assign, finish
from vlaforget_ros.policy.offer import PROTOCOL, Offer, Wanted, not_shared
from vlaforget_ros.policy.options import read_options
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.regions import borrow_cuda, borrow_host, check_places, require_tensors
from vlaforget_ros.policy.shards import Shards

_CONNECT_S = 2.0
_TALK_S = 10.0


@dataclass(frozen=True)
class Borrowed:
    """A policy on weights of another process. They are read and never written.

    Args:
        policy: on these weights.
        bytes: of them.
        lender: process that lends them.
        tied: they go with their lender.
        lifeline: its end is the lender's.
    """

    policy: VlaPolicy
    bytes: int
    lender: int
    tied: bool
    lifeline: socket.socket

    def gone(self) -> bool:
        """Whether these weights must not be used any more; never so on the CPU, where a mapping keeps its memory."""
        if not self.tied:
            return False
        try:
            return self.lifeline.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Tell the lender that nothing of it is used any more."""
        self.lifeline.close()


def borrow(directory: Path, device: str) -> Borrowed:
    """The policy of a checkpoint on the weights of a process of this user that serves it on this device.

    Args:
        directory: of the checkpoint.
        device: where the weights are to be.

    Raises:
        PolicyError: 207 for an unusable checkpoint, 212 with the reason of each lender where none can be used.
    """
    protocol.kind_of_memory(device)
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise not_shared("there is no GPU", value=device)
    # Before the digest, which reads all files: without any lender nothing is lost.
    if not any(protocol.lenders()):
        raise not_shared("no policy on this host lends any")
    digest = checkpoint.digest(directory)
    reasons = []
    for path in protocol.lenders(digest):
        try:
            return _borrowed(path, directory, device, digest)
        except PolicyError as error:
            if error.code != ErrorCode.POLICY_NOT_SHARED:
                raise
            reasons.append(f"{path.stem}: {error}")
        except OSError as error:
            # Killed lenders leave their sockets; the next lender removes them.
            reasons.append(f"{path.stem}: {error}")
    raise not_shared("no policy on this host lends those of this base", value="; ".join(reasons) or None)


def _borrowed(path: Path, directory: Path, device: str, digest: str) -> Borrowed:
    with contextlib.ExitStack() as leaving:
        connection = leaving.enter_context(socket.socket(socket.AF_UNIX))
        connection.settimeout(_CONNECT_S)
        connection.connect(str(path))
        if not protocol.same_user(connection):
            raise not_shared("another user lends them")
        connection.settimeout(_TALK_S)
        wanted = Wanted(protocol=PROTOCOL, base=digest, device=protocol.identity(device))
        protocol.send(connection, wanted)
        body, file = protocol.receive(connection)
        if file is not None:
            # Once it is mapped it is not needed any more.
            leaving.callback(os.close, file)
        offer = _checked(body, wanted)
        model, tokenizer = checkpoint.empty(directory)
        require_tensors(offer, model, _dtypes(directory))
        if torch.device(device).type == "cuda":
            tensors = borrow_cuda(torch.device(device), offer)
        elif file is None:
            raise not_shared("the offer came without its file")
        else:
            tensors = borrow_host(file, offer)
        for name, tensor in tensors.items():
            assign(model, name, tensor)
        finish(model, device)
        policy = VlaPolicy(model.eval(), tokenizer, digest)
        size = sum(region.bytes for region in offer.regions)
        lifeline = connection.dup()
        # With a timeout Python would wait for it, whatever flags a call has.
        lifeline.setblocking(False)
        return Borrowed(policy, size, offer.pid, offer.tied, lifeline)


def _checked(body: bytes, wanted: Wanted) -> Offer:
    try:
        offer = Offer.model_validate_json(body)
    except ValidationError as error:
        raise not_shared(f"the offer is not understood: {error.errors()[0]['msg']}") from error
    if offer.refused:
        raise not_shared(f"refused: {offer.refused}")
    for name in Wanted.model_fields:
        if getattr(offer, name) != getattr(wanted, name):
            raise not_shared(
                f"the offer has another {name}", value=getattr(offer, name), limit=getattr(wanted, name)
            )
    check_places(offer)
    return offer


def _dtypes(directory: Path) -> set[torch.dtype]:
    """Types that floating-point weights of a checkpoint have in memory."""
    asked = read_options(directory).torch_dtype
    return {asked} if asked is not None else Shards.open(directory).dtypes()
