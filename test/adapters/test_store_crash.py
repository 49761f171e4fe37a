"""The store when its process dies, the disk is full, or two processes write at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mounts import MOUNTS, python

from vlaforget_ros.adapters import AdapterStore, LoraWeights, write_peft
from vlaforget_ros.errors import AdapterError, ErrorCode

# One process, which forks a child for each point of time: the import of torch is paid once.
KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from pathlib import Path
from vlaforget_ros.adapters import AdapterStore

staging, roots = Path(sys.argv[1]), Path(sys.argv[2])
for point in range(40):
    child = os.fork()
    if child == 0:
        left, synced = point, os.fsync
        def fsync(descriptor):
            global left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            synced(descriptor)
        os.fsync = fsync
        AdapterStore(roots / str(point)).add(staging, {'name': 'lost', 'method': 'npo'})
        os._exit(0)
    if os.WIFEXITED(os.waitpid(child, 0)[1]):
        print(point)
        break
"""

FULL = """
import resource, subprocess, sys
import torch
from pathlib import Path
from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.errors import AdapterError

staging, root, mode = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
if mode == "full tmpfs":
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", root], check=True)
store = AdapterStore(root)
small = store.add(staging / "small", {'name': 'small', 'method': 'npo'})
if mode == "file size limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))
try:
    store.add(staging / "big", {'name': 'big', 'method': 'npo'})
except AdapterError as error:
    print(int(error.code), error.remedy)
assert store.load(small.digest).modules
assert [m.name for m in store.manifests()] == ["small"]
assert list((root / "incoming").iterdir()) == []
again = store.add(staging / "other", {'name': 'other', 'method': 'npo'})
store.alias("candidate", again.digest)
print(sorted(m.name for m in store.manifests()), [e["event"] for e in store.history()])
"""

WRITERS = """
import os, sys
import torch
torch.set_num_threads(1)
from pathlib import Path
from vlaforget_ros.adapters import AdapterStore

staging, root = Path(sys.argv[1]), Path(sys.argv[2])
go, start = os.pipe()
children = []
for worker in range(2):
    child = os.fork()
    if child == 0:
        os.close(start)
        os.read(go, 1)
        store = AdapterStore(root)
        for index in range(12):
            store.add(staging, {'name': 'shared', 'method': 'npo', 'seeds': [index]})
            own = store.add(staging, {'name': f'own-{worker}-{index}', 'method': 'npo'})
            store.alias(f'last-{worker}', own.digest)
        os._exit(0)
    children.append(child)
os.close(start)
sys.exit(sum(os.waitpid(child, 0)[1] for child in children) != 0)
"""


def test_kill_9_at_any_moment_of_an_add_leaves_a_readable_store(
    tmp_path: Path, make_weights: Callable[..., LoraWeights]
) -> None:
    write_peft(make_weights(1), tmp_path / "staging")
    points = int(python(KILLED, tmp_path / "staging", tmp_path))
    # two files, manifest, their directory, the directory of adapters, the history
    assert points >= 6

    states = set()
    for point in range(points):
        store = AdapterStore(tmp_path / str(point))
        complete = [store.load(digest) for digest in store.digests()]
        states.add(len(complete))
        again = store.add(tmp_path / "staging", {"name": "lost", "method": "npo"})
        assert [manifest.digest for manifest in store.manifests()] == [again.digest]
        assert list((store.root / "incoming").iterdir()) == [] or complete
    assert states == {0, 1}


@pytest.mark.parametrize("mode", ["file size limit", *(["full tmpfs"] if MOUNTS else [])])
def test_a_full_disk_is_code_107_and_the_store_works_on(
    tmp_path: Path, make_weights: Callable[..., LoraWeights], mode: str
) -> None:
    for name, rank in {"small": 1, "big": 200, "other": 2}.items():
        write_peft(make_weights(1, rank=rank), tmp_path / "staging" / name)
    (tmp_path / "store").mkdir()

    before = MOUNTS if mode == "full tmpfs" else ()
    output = python(FULL, tmp_path / "staging", tmp_path / "store", mode, before=before)

    refused, after = output.splitlines()
    assert refused.startswith("107 free space")
    assert after == "['other', 'small'] ['added', 'added', 'alias']"


def test_two_processes_that_add_at_once_lose_nothing(
    tmp_path: Path, make_weights: Callable[..., LoraWeights]
) -> None:
    write_peft(make_weights(1), tmp_path / "staging")
    python(WRITERS, tmp_path / "staging", tmp_path / "store")

    store = AdapterStore(tmp_path / "store")
    names = sorted(manifest.name for manifest in store.manifests())
    assert names == sorted(["shared"] * 12 + [f"own-{worker}-{i}" for worker in range(2) for i in range(12)])
    assert set(store.aliases()) == {"last-0", "last-1"}
    assert [event["event"] for event in store.history()].count("added") == 36
    assert all(store.load(digest).modules for digest in store.digests())


def test_a_disk_full_history_is_coded_and_earlier_events_stay(
    tmp_path: Path, make_weights: Callable[..., LoraWeights]
) -> None:
    store = AdapterStore(tmp_path / "store")
    digest = store.add_weights(make_weights(), {"name": "a", "method": "npo"}).digest
    (store.root / "history.jsonl").unlink()
    (store.root / "history.jsonl").symlink_to("/dev/full")

    with pytest.raises(AdapterError) as caught:
        store.record("swap", digest)

    assert caught.value.code == ErrorCode.ADAPTER_DISK
    assert store.load(digest).digest == digest
