"""Base weights of one process used by another: same numbers, no second copy, nothing written, nothing left behind."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from lending_parts import Lending, lend, sockets
from live_parts import eventually
from released_parts import INSTRUCTION, write_oft, write_released

from vlaforget_ros.bench import random_pi0
from vlaforget_ros.bench.random_release import released
from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy import checkpoint, offer
from vlaforget_ros.policy.borrower import borrow
from vlaforget_ros.policy.lender import Lender, is_copied
from vlaforget_ros.policy.offer import CudaHandle, Offer, Region, Wanted
from vlaforget_ros.policy.options import set_options
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.regions import weights_of

__all__ = ["lend", "sockets"]
Start = Callable[..., Lending]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In bfloat16, where the files have float32."""
    base = tmp_path_factory.mktemp("lent") / "base"
    write_released(base)
    set_options(base, dtype="bfloat16")
    return base


def _image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)


def _same(left: VlaPolicy, right: VlaPolicy) -> bool:
    mine, theirs = weights_of(left.model), weights_of(right.model)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_borrowed_weights_and_what_comes_of_them_are_those_of_own_loading(folder: Path, lend: Start) -> None:
    lender = lend(folder)
    borrowed, own = borrow(folder, "cpu"), VlaPolicy.load(folder)
    assert borrowed.lender == lender.pid
    assert borrowed.policy.base_digest == own.base_digest
    assert {tensor.dtype for tensor in weights_of(borrowed.policy.model).values()} == {torch.bfloat16}
    assert _same(borrowed.policy, own)
    batches = [p.encode(_image()[None], [INSTRUCTION], np.zeros((1, 7))) for p in (borrowed.policy, own)]
    logits = [p.action_logits(b) for p, b in zip((borrowed.policy, own), batches, strict=True)]
    assert torch.equal(*logits)
    assert borrowed.policy.act(_image(), INSTRUCTION).tokens == own.act(_image(), INSTRUCTION).tokens


@pytest.mark.parametrize("layout", ["own", "oft", "pi0"])
def test_every_layout_can_be_lent(layout: str, tmp_path: Path, checkpoint_dir: Path, sockets: Path) -> None:
    base = checkpoint_dir if layout == "own" else tmp_path / "base"
    if layout == "oft":
        write_oft(base, state=4)
    elif layout == "pi0":
        random_pi0.write(base, (INSTRUCTION,), random_pi0.Robot(state=2, chunk=3, bound=0.02))
    with Lender(VlaPolicy.load(base)):
        borrowed, own = borrow(base, "cpu"), VlaPolicy.load(base)
    assert _same(borrowed.policy, own)
    assert borrowed.policy.model.state_dict().keys() == own.model.state_dict().keys()


_HOLDS = """
import ctypes, gc, json, sys, torch
from pathlib import Path
from vlaforget_ros.policy.borrower import borrow
from vlaforget_ros.policy.policy import VlaPolicy

def private():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1e3

def used(held):
    policy = getattr(held, "policy", held)
    return sum(int(w.view(-1).view(torch.uint8).sum()) for w in policy.model.state_dict().values())

base, found = Path(sys.argv[1]), {}
warm = VlaPolicy.load(base)
used(warm)
del warm
for how, get in (("borrow", lambda: borrow(base, "cpu")), ("own", lambda: VlaPolicy.load(base))):
    before = private()
    held = get()
    total = used(held)
    found[how] = [private() - before, total]
    del held
print(json.dumps(found))
"""


def test_a_borrower_has_no_copy(tmp_path: Path, lend: Start) -> None:
    with released("small", "cpu", (INSTRUCTION,), folder=tmp_path) as release:
        set_options(release.directory, dtype="bfloat16")
        lend(release.directory)
        command = [sys.executable, "-c", _HOLDS, str(release.directory)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(lines)
    # 44 MB in bfloat16.
    assert found["borrow"][1] == found["own"][1]
    assert found["own"][0] > 40, found
    assert found["borrow"][0] < 8, found


def test_what_a_borrower_writes_stays_its_own(folder: Path, sockets: Path) -> None:
    policy = VlaPolicy.load(folder)
    with Lender(policy):
        first = borrow(folder, "cpu")
        for weight in weights_of(first.policy.model).values():
            weight.zero_()
        own = VlaPolicy.load(folder)
        assert _same(policy, own)
        assert _same(borrow(folder, "cpu").policy, own)


def test_a_killed_borrower_and_a_killed_lender_leave_nothing_in_memory(folder: Path, lend: Start) -> None:
    lender = lend(folder)
    before, mapped = _left_in_memory(lender.pid), _mapped_bytes()
    script = (
        "from vlaforget_ros.policy.borrower import borrow; from pathlib import Path; import sys, os, signal; "
    )
    script += "held = borrow(Path(sys.argv[1]), 'cpu'); os.kill(os.getpid(), signal.SIGKILL)"
    killed = subprocess.run([sys.executable, "-c", script, str(folder)], check=False)
    assert killed.returncode == -signal.SIGKILL
    held = borrow(folder, "cpu")
    lender.kill()
    assert not held.gone(), "on the CPU a mapping keeps its memory"
    assert _same(held.policy, VlaPolicy.load(folder))
    assert _left_in_memory(lender.pid) == before == []
    assert _mapped_bytes() > mapped
    del held
    assert _mapped_bytes() == mapped


def _left_in_memory(pid: int) -> list[str]:
    """Names below /dev/shm that are a lender's; others use that folder, too."""
    return [name for name in _names("/dev/shm") if "vlaforget" in name or name.startswith(f"torch_{pid}_")]


def _names(folder: str) -> list[str]:
    return [path.name for path in Path(folder).iterdir()]


def _mapped_bytes() -> int:
    gc.collect()
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if "vlaforget-weights" in line]
    return sum(int(end, 16) - int(start, 16) for start, end in spans)


def test_the_socket_of_a_killed_lender_is_passed_over_and_removed(
    folder: Path, lend: Start, sockets: Path
) -> None:
    first = lend(folder)
    first.kill()
    assert len(list(sockets.iterdir())) == 1
    with pytest.raises(PolicyError, match="refused") as caught:
        borrow(folder, "cpu")
    assert caught.value.code == ErrorCode.POLICY_NOT_SHARED
    second = lend(folder)
    assert [path.stem.rpartition("-")[2] for path in sockets.iterdir()] == [str(second.pid)]
    assert borrow(folder, "cpu").lender == second.pid
    second.close()
    assert list(sockets.iterdir()) == []


@pytest.mark.parametrize("how", ["close", "kill"])
def test_who_works_on_memory_that_goes_with_its_lender_is_told(folder: Path, lend: Start, how: str) -> None:
    lender = lend(folder, tied=True)
    held = borrow(folder, "cpu")
    assert not held.gone()
    getattr(lender, how)()
    # A thread of its own tells it.
    assert eventually(held.gone)


def test_other_weights_other_folders_and_other_domains_are_not_borrowed(
    folder: Path, tmp_path: Path, sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PolicyError, match="no policy on this host lends any"):
        borrow(folder, "cpu")
    write_released(tmp_path / "other", seed=1)
    with Lender(VlaPolicy.load(folder)):
        with pytest.raises(PolicyError, match="lends those of this base"):
            borrow(tmp_path / "other", "cpu")
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("ROS_DOMAIN_ID", "77")
            with pytest.raises(PolicyError, match="lends any"):
                borrow(folder, "cpu")
        sockets.chmod(0o755)
        with pytest.raises(PolicyError, match="lends any"):
            borrow(folder, "cpu")
        sockets.chmod(0o700)
        assert borrow(folder, "cpu").bytes > 0


def test_a_lender_refuses_what_it_does_not_have(folder: Path, sockets: Path) -> None:
    asked = {"protocol": offer.PROTOCOL, "base": checkpoint.digest(folder), "device": "cpu"}
    others = {"base": "0" * 64, "device": "cuda GPU-1", "protocol": offer.PROTOCOL + 1}
    with Lender(VlaPolicy.load(folder)):
        assert _asked(sockets, Wanted(**asked)) == ("", True)
        for field, value in others.items():
            refused, lent = _asked(sockets, Wanted(**{**asked, field: value}))
            assert field in refused
            assert not lent


def _asked(sockets: Path, wanted: Wanted) -> tuple[str, bool]:
    """Why a lender refuses, and whether a file came."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(next(sockets.iterdir())))
        offer.send(connection, wanted)
        body, file = offer.receive(connection)
    if file is not None:
        os.close(file)
    return json.loads(body)["refused"], file is not None


def test_a_lender_outlives_nonsense(folder: Path, sockets: Path) -> None:
    with Lender(VlaPolicy.load(folder)):
        _talk_nonsense(sockets)
        assert borrow(folder, "cpu").bytes > 0


def _talk_nonsense(sockets: Path) -> None:
    for nonsense in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 7 + b"\x02{}", b"\xff" * 8):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(next(sockets.iterdir())))
            connection.sendall(nonsense)


def _smaller(text: str) -> str:
    return re.sub(r'"bytes":\d+', '"bytes":2', text)


def _other_shape(text: str) -> str:
    data = json.loads(text)
    place = data["tensors"]["projector.fc1.bias"]
    place["shape"][0] -= 1
    return json.dumps(data)


def _changed(**changes: object) -> Callable[[str], str]:
    return lambda text: json.dumps({**json.loads(text), **changes})


def _beyond(text: str) -> str:
    data = json.loads(text)
    data["regions"][-1]["start"] += 1 << 20
    return json.dumps(data)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text.replace('"projector.fc1.bias"', '"projector.fc9.bias"'), "names are not those"),
        (_other_shape, "another shape"),
        (lambda text: text.replace("bfloat16", "float16"), "another type"),
        (lambda text: text.replace("bfloat16", "object"), "unknown type"),
        (_smaller, "larger than its storage"),
        (_beyond, "beyond the end"),
        (_changed(base="0" * 64), "another base"),
        (_changed(device="cuda GPU-1"), "another device"),
        (_changed(protocol=99), "another protocol"),
        (_changed(regions=[]), "no place"),
        (_changed(more=1), "not understood"),
        (lambda text: "{", "not understood"),
        (lambda text: None, "hung up"),
    ],
)
def test_an_offer_that_does_not_fit_is_refused_before_it_is_used(
    change: Callable[[str], str | None], why: str, folder: Path, sockets: Path
) -> None:
    with _altered(folder, change), pytest.raises(PolicyError, match=why) as caught:
        borrow(folder, "cpu")
    assert caught.value.code == ErrorCode.POLICY_NOT_SHARED


def test_a_file_that_could_still_change_is_refused(folder: Path, sockets: Path) -> None:
    with _altered(folder, lambda text: text, sealed=False), pytest.raises(PolicyError, match="be changed"):
        borrow(folder, "cpu")


class _altered:
    """A lender whose every offer is changed on its way."""

    def __init__(self, folder: Path, change: Callable[[str], str | None], sealed: bool = True) -> None:
        self._change, self._sealed = change, sealed
        self._lender = Lender(VlaPolicy.load(folder))
        self._path = self._lender._path
        self._listener = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> None:
        real = self._path.with_name("real")
        self._path.rename(real)
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, args=(real,))
        self._thread.start()

    def _serve(self, real: Path) -> None:
        connection, _ = self._listener.accept()
        with connection, socket.socket(socket.AF_UNIX) as behind:
            behind.connect(str(real))
            wanted, _ = offer.receive(connection)
            offer.send(behind, Wanted.model_validate_json(wanted))
            body, file = offer.receive(behind)
            if file is not None and not self._sealed:
                size = os.fstat(file).st_size
                os.close(file)
                file = os.memfd_create("unsealed")
                os.ftruncate(file, size)
            text = self._change(body.decode())
            if text is not None:
                head = len(text.encode()).to_bytes(8, "big")
                socket.send_fds(connection, [head], [] if file is None else [file])
                connection.sendall(text.encode())
            if file is not None:
                os.close(file)

    def __exit__(self, *_: object) -> None:
        self._thread.join(10)
        self._listener.close()
        self._path.unlink(missing_ok=True)
        self._lender.close()
        self._lender._thread.join(10)
        self._path.with_name("real").unlink(missing_ok=True)


def test_rounded_weights_are_not_lent_and_the_policy_serves_all_the_same(folder: Path, sockets: Path) -> None:
    policy = VlaPolicy.load(folder, weights="int8")
    with pytest.raises(PolicyError, match="rounded weights") as caught:
        Lender(policy)
    assert caught.value.code == ErrorCode.POLICY_NOT_SHARED
    assert not sockets.exists() or not list(sockets.iterdir())


def test_a_policy_that_lends_serves_as_before_and_holds_its_weights_once(folder: Path, sockets: Path) -> None:
    policy = VlaPolicy.load(folder)
    before = policy.act(_image(), INSTRUCTION)
    with Lender(policy) as lender:
        assert policy.act(_image(), INSTRUCTION).tokens == before.tokens
        inside = [weight.data_ptr() for weight in weights_of(policy.model).values()]
        assert all(_in_file(address) for address in inside)
        twin = policy.twin()
        assert {w.data_ptr() for w in weights_of(twin.model).values()} == set(inside)
        assert lender.bytes <= _mapped_bytes()


def _in_file(address: int) -> bool:
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if "vlaforget-weights" in line]
    return any(int(start, 16) <= address < int(end, 16) for start, end in spans)


def test_only_copies_are_worth_lending(folder: Path, tmp_path: Path) -> None:
    write_released(tmp_path / "stored")
    assert is_copied(folder, "cpu")
    assert not is_copied(tmp_path / "stored", "cpu")
    assert is_copied(tmp_path / "stored", "cuda")


def test_without_a_gpu_nothing_of_one_is_borrowed(folder: Path, sockets: Path) -> None:
    if torch.cuda.is_available():
        return
    with pytest.raises(PolicyError, match="no GPU"):
        borrow(folder, "cuda")


def test_handles_of_a_gpu_survive_the_socket() -> None:
    handle = CudaHandle(memory="AP8=", counter="L3RvcmNo", counter_offset=3, event="AA==", wait=True)
    sent = Offer(regions=(Region(bytes=8, start=512, handle=handle),), tied=True)
    left, right = socket.socketpair()
    with left, right:
        offer.send(left, sent)
        body, file = offer.receive(right)
    assert file is None
    assert Offer.model_validate_json(body) == sent


@pytest.fixture(autouse=True)
def no_descriptor_is_left_open() -> Iterator[None]:
    before = psutil.Process().num_fds()
    yield
    # A listener of one that was closed a moment ago may still be there.
    assert psutil.Process().num_fds() <= before + 8
