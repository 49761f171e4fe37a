"""Memory that two processes use: a sealed file without a name on the CPU, CUDA IPC on a GPU. Both directions.

The branch for GPUs follows torch.multiprocessing.reductions of PyTorch 2.13 and **was never run**: no GPU was at hand.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
import sys
from base64 import b64decode, b64encode
from typing import Any

import torch
from torch import Tensor, UntypedStorage

from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.offer import DTYPES, CudaHandle, Offer, Place, Region, not_shared

# Memory that two tensors never share a line of.
_ALIGN = 64
# Nobody changes size or contents any more: a borrower neither reads past the end nor finds other weights.
_SEALS = ("F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_WRITE", "F_SEAL_SEAL")


def weights_of(model: OpenVla) -> dict[str, Tensor]:
    """All that a checkpoint stores, by name; weights that are another one's are left out."""
    return {name: tensor for name, tensor in model.state_dict().items() if name not in model.shared}


def lend_host(model: OpenVla) -> tuple[int, tuple[Region, ...], dict[str, Place]]:
    """Move a network's weights, one after the other, into a file in memory; the network goes on with them.

    Args:
        model: on the CPU, not in use by anybody.

    Returns:
        the open file, which the caller closes, and what an :class:`.Offer` says about it.

    Raises:
        PolicyError: 212 where the system has no such files, or no memory for one. The network then has the same values.
    """
    if not sys.platform.startswith("linux"):
        raise not_shared("memory on the CPU can be lent on Linux only", value=sys.platform)
    tensors = weights_of(model)
    regions: list[Region] = []
    places: dict[str, Place] = {}
    end = 0
    for name, tensor in tensors.items():
        places[name] = _place(tensor, len(regions), packed=True)
        regions.append(Region(bytes=tensor.nbytes, start=end))
        end += -(-tensor.nbytes // _ALIGN) * _ALIGN
    try:
        file = os.memfd_create("vlaforget-weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise not_shared(f"no file in memory: {error}") from error
    try:
        os.ftruncate(file, max(end, 1))
        memory = mmap.mmap(file, max(end, 1), access=mmap.ACCESS_COPY)
        for name, place in places.items():
            region = regions[place.region]
            # Taken out: nothing else may hold the old weight, or there would be two copies of all.
            _write(file, tensors.pop(name), region.start)
            owner, _, attribute = name.rpartition(".")
            getattr(model.get_submodule(owner), attribute).data = _view(memory, region, place)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _all_seals())
    except OSError as error:
        os.close(file)
        raise not_shared(f"no memory for the file: {error}") from error
    return file, tuple(regions), places


def borrow_host(file: int, offer: Offer) -> dict[str, Tensor]:
    """Map what :func:`lend_host` wrote; what this process writes to it stays its own.

    Args:
        file: of the offer.
        offer: describes it.

    Raises:
        PolicyError: 212 for a file that could still change, or an offer that goes beyond its end.
    """
    if fcntl.fcntl(file, fcntl.F_GET_SEALS) & _all_seals() != _all_seals():
        raise not_shared("the file of the weights could still be changed")
    size = os.fstat(file).st_size
    beyond = [
        region for region in offer.regions if region.start % _ALIGN or region.start + region.bytes > size
    ]
    if beyond:
        raise not_shared("the offer goes beyond the end of its file", value=beyond[0], limit=f"{size} bytes")
    # A private mapping: pages are the lender's until they are written, and the written ones nobody else's.
    memory = mmap.mmap(file, size, access=mmap.ACCESS_COPY)
    return {name: _view(memory, offer.regions[at.region], at) for name, at in offer.tensors.items()}


def lend_cuda(model: OpenVla) -> tuple[list[UntypedStorage], tuple[Region, ...], dict[str, Place]]:
    """Handles of a network's storages, each made once for all borrowers.

    The caller keeps the storages as long as anybody may use them, since a reference count that PyTorch gives each
    handle counts one borrower only, and then calls :func:`withdraw_cuda`.

    Raises:
        PolicyError: 212 where the driver refuses.
    """
    storages: list[UntypedStorage] = []
    regions: list[Region] = []
    known: dict[int, int] = {}
    places: dict[str, Place] = {}
    for name, tensor in weights_of(model).items():
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            known[storage.data_ptr()] = len(regions)
            regions.append(_shared(storage))
            storages.append(storage)
        places[name] = _place(tensor, known[storage.data_ptr()])
    # Borrowers must not read before the copies to the device have ended.
    torch.cuda.synchronize(next(model.parameters()).device)
    return storages, tuple(regions), places


def _shared(storage: UntypedStorage) -> Region:
    try:
        _, memory, size, start, counter, counter_offset, event, wait = storage._share_cuda_()
    except RuntimeError as error:
        raise not_shared(f"CUDA IPC: {error}") from error
    return Region(
        bytes=size,
        start=start,
        handle=CudaHandle(
            memory=b64encode(memory).decode(),
            counter=b64encode(counter).decode(),
            counter_offset=counter_offset,
            event=b64encode(event).decode(),
            wait=wait,
        ),
    )


def withdraw_cuda(regions: tuple[Region, ...]) -> None:
    """Take back the count of one borrower that every handle starts with: without it memory is never freed."""
    for region in regions:
        if region.handle is not None:
            counter = b64decode(region.handle.counter)
            UntypedStorage._release_ipc_counter_cuda(counter, region.handle.counter_offset)


def borrow_cuda(device: torch.device, offer: Offer) -> dict[str, Tensor]:
    """Map the storages of an offer.

    Args:
        device: here; its number may be another one there.
        offer: describes them.

    Raises:
        PolicyError: 212 where the driver refuses.
    """
    torch.cuda.init()
    number = torch.cuda.current_device() if device.index is None else device.index
    storages = []
    for region in offer.regions:
        handle = region.handle
        if handle is None:
            raise not_shared("an offer of a GPU's memory without handles")
        try:
            storages.append(
                UntypedStorage._new_shared_cuda(
                    number,
                    b64decode(handle.memory),
                    region.bytes,
                    region.start,
                    b64decode(handle.counter),
                    handle.counter_offset,
                    b64decode(handle.event),
                    handle.wait,
                )
            )
        except (RuntimeError, ValueError) as error:
            raise not_shared(f"CUDA IPC: {error}") from error
    found: dict[str, Tensor] = {}
    for name, at in offer.tensors.items():
        empty = torch.empty(0, dtype=DTYPES[at.dtype], device=torch.device("cuda", number))
        found[name] = empty.set_(storages[at.region], at.offset, at.shape, at.stride)
    return found


def check_places(offer: Offer) -> None:
    """Every tensor is of a known type and within its storage. Raises PolicyError 212 naming the first other one."""
    for name, at in offer.tensors.items():
        if at.dtype not in DTYPES:
            raise not_shared(f"{name} is of an unknown type", value=at.dtype, limit=", ".join(DTYPES))
        if at.region >= len(offer.regions) or len(at.shape) != len(at.stride):
            raise not_shared(f"{name} has no place in the offer")
        last = at.offset + sum((n - 1) * step for n, step in zip(at.shape, at.stride, strict=True))
        needed = 0 if 0 in at.shape else (last + 1) * DTYPES[at.dtype].itemsize
        if needed > offer.regions[at.region].bytes:
            raise not_shared(f"{name} is larger than its storage", value=f"{needed} bytes")


def require_tensors(offer: Offer, model: OpenVla, dtypes: set[torch.dtype]) -> None:
    """An offer has the tensors of a network, no more and no fewer.

    Args:
        offer: of another process.
        model: on the meta device.
        dtypes: that floating-point weights of this checkpoint may have in memory.

    Raises:
        PolicyError: 212 naming the first difference.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in weights_of(model).items()}
    differ = sorted(offer.tensors.keys() ^ wanted.keys())
    if differ:
        raise not_shared(f"{len(differ)} names are not those of the checkpoint", value=", ".join(differ[:5]))
    for name, at in offer.tensors.items():
        if at.shape != wanted[name]:
            raise not_shared(f"{name} has another shape", value=at.shape, limit=wanted[name])
        if DTYPES[at.dtype].is_floating_point and DTYPES[at.dtype] not in dtypes:
            raise not_shared(f"{name} has another type", value=at.dtype, limit=sorted(map(str, dtypes)))


def _place(tensor: Tensor, region: int, packed: bool = False) -> Place:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise not_shared("weights of an unknown type", value=dtype, limit=", ".join(DTYPES))
    stride = torch.empty(tensor.shape, device="meta").stride() if packed else tensor.stride()
    offset = 0 if packed else int(tensor.storage_offset())
    return Place(region=region, dtype=dtype, shape=tuple(tensor.shape), stride=stride, offset=offset)


def _write(file: int, tensor: Tensor, start: int) -> None:
    numbers: Any = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    left = memoryview(numbers)
    while left:
        written = os.pwrite(file, left[: 1 << 30], start)
        left, start = left[written:], start + written


def _view(memory: mmap.mmap, region: Region, at: Place) -> Tensor:
    dtype = DTYPES[at.dtype]
    if not math.prod(at.shape):
        return torch.empty(at.shape, dtype=dtype)
    storage = torch.frombuffer(memory, dtype=dtype, count=region.bytes // dtype.itemsize, offset=region.start)
    return storage.as_strided(at.shape, at.stride, at.offset)


def _all_seals() -> int:
    return sum(int(getattr(fcntl, name)) for name in _SEALS)
