"""kill -9 at any line of add, import, alias and promote: the alias is old or new, never neither; history is whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vlaforget_ros.adapters import AdapterStore, LoraWeights, write_peft
from vlaforget_ros.adapters.exchange import export_adapter

ROOT = Path(__file__).resolve().parents[2]
POINTS = 60

# One process, which forks a child for each point: the import of torch is paid once. A point is a line of the modules
# that touch the disk, spread over the whole call; the first child counts them and lives.
KILLED = """
import os, signal, sys, shutil
import torch
torch.set_num_threads(1)
from pathlib import Path
from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.adapters.exchange import import_adapter

verb, start, roots, wanted = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
arguments = sys.argv[5:]
names = ("store", "files", "history", "names", "exchange", "bundle")
watched = tuple(f"adapters{os.sep}{name}.py" for name in names)


def call(store):
    if verb == 'add':
        store.add(Path(arguments[0]), {'name': 'late', 'method': 'npo'})
    elif verb == 'import':
        import_adapter(store, arguments[0])
    else:
        store.alias(*arguments)

def child(root, fatal):
    '''Run the call and die at line number ``fatal``; the count of lines where it lives.'''
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        seen = 0
        def trace(frame, event, argument):
            nonlocal seen
            if not frame.f_code.co_filename.endswith(watched):
                return None
            if event == 'line':
                if seen == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1
            return trace
        store = AdapterStore(root)
        sys.settrace(trace)
        call(store)
        sys.settrace(None)
        os.write(into, str(seen).encode())
        os._exit(0)
    os.close(into)
    status = os.waitpid(pid, 0)[1]
    with os.fdopen(out) as answer:
        return int(answer.read() or -1), os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL

shutil.copytree(start, roots / 'lived')
lines, _ = child(roots / 'lived', -1)
points = sorted({lines * point // wanted for point in range(wanted)})
for point in points:
    shutil.copytree(start, roots / str(point))
    assert child(roots / str(point), point) == (-1, True), point
print(lines, *points)
"""


@pytest.fixture
def start(tmp_path: Path, make_weights: Callable[..., LoraWeights]) -> AdapterStore:
    """A store with two adapters that may serve; the first is stable."""
    store = AdapterStore(tmp_path / "start")
    for seed in range(2):
        store.add_weights(make_weights(seed), {"name": f"a{seed}", "method": "npo", "gates_passed": True})
    store.alias("stable", store.resolve("a0"))
    write_peft(make_weights(5), tmp_path / "staging")
    return store


def kill(tmp_path: Path, verb: str, *arguments: object) -> list[AdapterStore]:
    """The stores of processes that were killed while they carried out a verb, in the order of the points."""
    (tmp_path / "roots").mkdir()
    line = [sys.executable, "-c", KILLED, verb, tmp_path / "start", tmp_path / "roots", POINTS, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [str(part) for part in line],
        capture_output=True,
        text=True,
        timeout=150,
        env=environment,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    points = run.stdout.split()[1:]
    assert len(points) >= 50
    return [AdapterStore(tmp_path / "roots" / point) for point in points]


def check_history(store: AdapterStore, before: list[dict[str, object]]) -> None:
    """Every line can be read, the earlier ones are as they were, at most one is new, and writing goes on."""
    found = store.history()
    assert found[: len(before)] == before
    assert len(found) <= len(before) + 1
    store.record("after", "")
    assert [event["event"] for event in store.history()] == [*(e["event"] for e in found), "after"]
    lines = (store.root / "history.jsonl").read_bytes().splitlines()
    assert all(json.loads(line)["event"] for line in lines)


@pytest.mark.parametrize("verb", ["add", "import"])
def test_kill_9_inside_add_and_import(verb: str, tmp_path: Path, start: AdapterStore) -> None:
    before, old = start.history(), set(start.digests())
    lab = AdapterStore(tmp_path / "lab")
    digest = lab.add(tmp_path / "staging", {"name": "late", "method": "npo"}).digest
    source = tmp_path / {"add": "staging", "import": "late.tar"}[verb]
    if verb == "import":
        export_adapter(lab, digest, str(source))
    seen = []
    for store in kill(tmp_path, verb, source):
        check_history(store, before)
        assert set(store.digests()) in (old, old | {digest})
        seen.append(digest in store.digests())
        assert all(store.load(found).digest == found for found in store.digests())
        assert store.aliases() == start.aliases()
        assert store.add(tmp_path / "staging", {"name": "late", "method": "npo"}).digest == digest
        assert store.resolve("late") == digest
        shutil.rmtree(store.root)
    assert seen == sorted(seen)
    assert set(seen) == {False, True}


@pytest.mark.parametrize("name", ["candidate", "stable"], ids=["alias", "promote"])
def test_kill_9_inside_alias_and_promote(name: str, tmp_path: Path, start: AdapterStore) -> None:
    before, first, second = start.history(), start.resolve("a0"), start.resolve("a1")
    old = {"stable": first}
    new = {"stable": second, "previous": first} if name == "stable" else {**old, name: second}
    seen = []
    for store in kill(tmp_path, "alias", name, second):
        check_history(store, before)
        assert store.aliases() in (old, new)
        seen.append(store.aliases() == new)
        assert {store.load(digest).digest for digest in store.digests()} == {first, second}
        store.alias(name, second)
        assert store.aliases()[name] == second
        shutil.rmtree(store.root)
    # Once it is new it stays new: one moment decides.
    assert seen == sorted(seen)
    assert set(seen) == {False, True}
