"""A process that lends base weights, as fixtures: real processes, real sockets, a folder for them of the test's own."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

_LENDER = """
import sys
from pathlib import Path
from vlaforget_ros.policy.lender import Lender
from vlaforget_ros.policy.policy import VlaPolicy
policy = VlaPolicy.load(Path(sys.argv[1]))
lender = Lender(policy)
# A policy that serves has read its weights: the kernel counts a page as shared once both have.
read = sum(float(weight.sum()) for weight in policy.model.state_dict().values())
if sys.argv[2:]:
    # As on a GPU, whose memory goes with the process.
    lender._offer = lender._offer.model_copy(update={"tied": True})
print("lends", flush=True)
sys.stdin.readline()
lender.close()
print("closed", flush=True)
sys.stdin.readline()
"""


class Lending:
    """A process that serves a checkpoint and lends its weights, until told otherwise."""

    def __init__(self, base: Path, *, tied: bool = False) -> None:
        command = [sys.executable, "-c", _LENDER, str(base), *(["tied"] if tied else [])]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._said() == "lends", self._process.stderr.read()

    def _said(self) -> str:
        return self._process.stdout.readline().strip()

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """Stop lending; the process lives on."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        assert self._said() == "closed"

    def kill(self, number: int = signal.SIGKILL) -> None:
        self._process.send_signal(number)
        self._process.communicate()


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of this test's sockets. Short: an address of a Unix socket has no room for pytest's folders."""
    with tempfile.TemporaryDirectory(prefix="vf") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        # Also where temporary folders are looked for; lenders of other programs are none of this test's business.
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        yield next(iter(_folders()))


def _folders() -> list[Path]:
    from vlaforget_ros.policy.offer import folders

    return folders()


@pytest.fixture
def lend(sockets: Path) -> Iterator[Callable[..., Lending]]:
    """Starts lenders; they end with the test."""
    with ExitStack() as ending:

        def start(base: Path, *, tied: bool = False) -> Lending:
            lending = Lending(base, tied=tied)
            ending.callback(lending.kill)
            return lending

        yield start
