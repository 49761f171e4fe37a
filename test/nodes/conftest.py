"""A graph of real node processes on an isolated domain, a random tiny checkpoint, and adapters for it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from live_parts import Camera, introduce

from vlaforget_ros.adapters import AdapterStore, LoraWeights
from vlaforget_ros.bringup.domains import own_domain
from vlaforget_ros.cell.situations import SITUATIONS
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.tiny import TEXT_IDS, new_tiny

ROOT = Path(__file__).resolve().parents[2]
_ADAPTED = (
    "language_model.model.layers.1.self_attn.o_proj",
    "language_model.model.layers.2.self_attn.o_proj",
)
INSTRUCTIONS = [situation.instruction for situation in SITUATIONS.values()]


@dataclass(frozen=True)
class Checkpoint:
    """A random policy on disk."""

    folder: Path
    digest: str


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("tiny")
    model, tokenizer = new_tiny(INSTRUCTIONS, seed=3)
    with torch.no_grad():
        # Some action token then always beats every text token, whatever an adapter does: no faults by chance.
        model.language_model.lm_head.weight[:TEXT_IDS] = 0.0
    return Checkpoint(folder, checkpoint.save(folder, model, tokenizer))


@pytest.fixture(scope="session")
def add_adapter() -> Callable[[AdapterStore, str, str, int], str]:
    return _add_adapter


def _add_adapter(store: AdapterStore, base: str, name: str, seed: int) -> str:
    """A random adapter strong enough to change every action; returns its digest."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        module: (torch.randn(2, 128, generator=generator), torch.randn(128, 2, generator=generator))
        for module in _ADAPTED
    }
    weights = LoraWeights.from_tensors(tensors, alpha=8.0, base_digest=base)
    provenance = {"name": name, "method": "test", "base_digest": base, "gates_passed": True}
    return store.add_weights(weights, provenance).digest


class Graph:
    """Processes of one test module, each with its log file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._all: list[subprocess.Popen[bytes]] = []

    def start(
        self, node: str, remap: tuple[tuple[str, str], ...] = (), **parameters: Any
    ) -> subprocess.Popen[bytes]:
        """Start a node that brings itself up."""
        values = {"autostart": True, **parameters}
        if node == "policy":
            # A busy machine may keep the monitor waiting; that the arm then holds has tests of its own.
            values.setdefault("monitor_timeout_s", 60.0)
            values.setdefault("image_timeout_s", 60.0)
        file = self.folder / f"{node}.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))
        command = [
            sys.executable,
            "-m",
            f"vlaforget_ros.nodes.{node}",
            "--ros-args",
            "--params-file",
            str(file),
            *(part for before, after in remap for part in ("-r", f"{before}:={after}")),
        ]
        with (self.folder / f"{node}.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        self.processes[node] = process
        self._all.append(process)
        return process

    def log(self, node: str) -> str:
        """What a node printed so far."""
        return (self.folder / f"{node}.log").read_text(errors="replace")

    def stop(self, node: str) -> int:
        """End a node as Ctrl-C under launch does, with more than one signal; returns its exit status."""
        process = self.processes.pop(node)
        for _ in range(2000):
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=0.01)
        return process.wait(timeout=60)

    @contextlib.contextmanager
    def frozen(self, node: str) -> Iterator[None]:
        """Let a node stand still meanwhile: with the lockstep cell frozen, no rollout goes on and none ends."""
        process = self.processes[node]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def kill(self, node: str) -> None:
        """kill -9."""
        process = self.processes.pop(node)
        process.kill()
        process.wait()

    def close(self) -> None:
        """End what is left, also what a failed test lost sight of."""
        left = [process for process in self._all if process.poll() is None]
        for process in left:
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGINT)
        for process in left:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="session")
def domain() -> Iterator[None]:
    """A domain of our own, this machine only."""
    changed = {"ROS_DOMAIN_ID": str(own_domain()), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update({**changed, "OMP_NUM_THREADS": "1"})
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture(scope="module")
def graph(domain: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    running = Graph(tmp_path_factory.mktemp("graph"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def make_client(domain: None) -> Iterator[Callable[[], Any]]:
    """Makes clients that are closed at the end of the module."""
    from vlaforget_ros.nodes.client import RobotClient

    made: list[Any] = []

    def make() -> RobotClient:
        made.append(RobotClient(timeout_s=90.0))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture(scope="module")
def client(make_client: Callable[[], Any]) -> Any:
    return make_client()


@pytest.fixture(scope="module")
def camera(robot: Any, request: pytest.FixtureRequest) -> Iterator[Camera]:
    """The camera of a module's robot, as large as the module says (CAMERA_SIZE)."""
    made = Camera(robot, getattr(request.module, "CAMERA_SIZE", 64))
    introduce(made.node, getattr(request.module, "CAMERA_FOR", ("policy_node",)))
    robot.wait_for_policy(lambda status: status.state == 2)
    yield made
    made.close()
