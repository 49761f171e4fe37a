"""Canaries with real processes: what the topics say becomes a verdict, and the verdict becomes swaps and stops.

The policy is the embedded one; the candidates are adapters too weak to change what it does.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from live_parts import SHELF, eventually

from vlaforget_ros.adapters import AdapterStore, LoraWeights
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.errors import CanaryError, CellError
from vlaforget_ros.paths import models_directory
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.safety.canary.state import Phase, Verdict

pytestmark = [pytest.mark.ros, pytest.mark.timeout(400)]

PROTOCOL = {
    "shadow": {"rollouts": 1, "max_mean_distance": 1.0, "max_would_be_violations": 9},
    "reduced_speed": {"speed_scale": 0.5, "rollouts": 1},
    "ramp": {"weights": [0.5, 1.0], "rollouts": 2},
    "svr_ok": 0.02,
    "svr_bad": 0.6,
    "tsr_reference": 0.9,
    "tsr_loss_ok": 0.05,
    "tsr_loss_bad": 0.6,
    "min_rollouts": 4,
    "max_rollouts": 8,
    "require_operator": False,
}
RULES = {
    "frame": "cell",
    "rules": [
        SHELF,
        {"type": "keep_out", "id": "keep_out/mat", "low_m": [5, 5, 5], "high_m": [6, 6, 6]},
    ],
}


class Heard:
    """Messages by topic."""

    def __init__(self, client: Any) -> None:
        self.of: dict[str, list[Any]] = {}
        for topic in ("action", "shadow_action", "rollout", "canary/status", "safety/status"):
            self.of[topic] = []
            client.subscribe(topic, self.of[topic].append)

    def clear(self) -> None:
        for messages in self.of.values():
            messages.clear()


@pytest.fixture(scope="module")
def store(graph: Any) -> AdapterStore:
    return AdapterStore(graph.folder / "store")


@pytest.fixture(scope="module")
def candidates(store: AdapterStore) -> Iterator[str]:
    policy = VlaPolicy.load(models_directory() / "tiny")
    name = next(n for n, _ in policy.model.named_modules() if n.endswith("layers.2.self_attn.o_proj"))
    rows, columns = policy.model.get_submodule(name).weight.shape
    digests = []
    for seed in range(7):
        generator = torch.Generator().manual_seed(seed)
        a, b = (torch.randn(shape, generator=generator) * 1e-6 for shape in ((2, columns), (rows, 2)))
        weights = LoraWeights.from_tensors({name: (a, b)}, alpha=2.0, base_digest=policy.base_digest)
        provenance = {"name": f"candidate-{seed}", "method": "test", "base_digest": policy.base_digest}
        digests.append(store.add_weights(weights, {**provenance, "gates_passed": True}).digest)
    return iter(digests)


def start_monitor(graph: Any) -> None:
    graph.start(
        "safety_monitor",
        rules_file=str(graph.folder / "rules.yaml"),
        store=str(graph.folder / "store"),
        state_file=str(graph.folder / "state" / "rates.json"),
        command_gate=True,
        canaries=str(graph.folder / "canaries"),
        use_sim_time=True,
    )


@pytest.fixture(scope="module")
def robot(graph: Any, client: Any, store: AdapterStore, candidates: Any) -> Any:
    rules = graph.folder / "rules.yaml"
    rules.write_text(yaml.safe_dump(RULES))
    sim = {"use_sim_time": True}
    graph.start("policy", checkpoint="tiny", store=str(store.root), canary_timeout_s=60.0, **sim)
    graph.start("cell", (("action", "action_checked"),))
    start_monitor(graph)
    client.wait_until_ready(["policy_node", "cell_node", "safety_monitor_node"], 150.0)
    client.wait_for_policy(lambda status: True)
    return client


@pytest.fixture(scope="module")
def other(make_client: Callable[[], Any]) -> Any:
    return make_client()


@pytest.fixture(scope="module")
def heard(robot: Any) -> Heard:
    made = Heard(robot)
    # Who answers on a service that is asked for just now knows that this client listens (see live_parts.introduce).
    robot.release()
    robot.list_adapters()
    return made


@pytest.fixture
def start(robot: Any, other: Any, graph: Any, heard: Heard) -> Iterator[Callable[..., Any]]:
    """Starts a canary; gives the future of its result, once the policy knows of it."""
    names = itertools.count()
    with ThreadPoolExecutor(1) as pool:

        def begin(candidate: str, **changes: Any) -> Any:
            heard.clear()
            file = graph.folder / f"protocol-{next(names)}.yaml"
            file.write_text(yaml.safe_dump({**PROTOCOL, **changes}))
            told = threading.Event()
            done = pool.submit(other.run_canary, candidate, str(file), lambda _: told.set(), 240.0)
            while not told.wait(0.05) and not done.done():
                pass
            return done

        yield begin


def drive(robot: Any, done: Any, most: int = 40, before: Callable[[int], None] = lambda _: None) -> int:
    """Rollouts until the canary has its verdict; how many."""
    for count in range(most):
        if done.done():
            return count
        before(count)
        robot.execute(robot.reset_cell("faucet-open", count))
    return most


def begun_since(heard: Heard, known: set[str]) -> list[str]:
    return [m.rollout_id for m in heard.of["rollout"] if m.phase == 0 and m.rollout_id not in known]


def flagged_in_the_air(
    robot: Any, operator: Any, graph: Any, heard: Heard, rule: str, seed: int, max_steps: int = 0
) -> Any:
    """The result of a rollout in which an operator flagged a rule, however late the flag is: the cell waits for it."""
    instruction = robot.reset_cell("faucet-open", seed)
    known = {message.rollout_id for message in heard.of["rollout"]}
    with ThreadPoolExecutor(1) as pool:
        with graph.frozen("cell"):
            running = pool.submit(robot.execute, instruction, max_steps=max_steps)
            assert eventually(lambda: bool(begun_since(heard, known)))
            (rollout_id,) = begun_since(heard, known)
            # The monitor may hear of the rollout after this client; until then the flag is nobody's.
            assert eventually(lambda: operator.flag(rule).startswith(rollout_id))
        return running.result()


def phases(heard: Heard) -> list[int]:
    return [phase for phase, _ in itertools.groupby(m.phase for m in heard.of["canary/status"])]


def test_a_good_candidate_goes_through_all_phases_and_becomes_stable(
    robot: Any, heard: Heard, start: Callable[..., Any], store: AdapterStore, candidates: Iterator[str]
) -> None:
    candidate = next(candidates)
    done = start(candidate)
    # A rollout that begins before the end of the slow one is known begins slow as well.
    drive(robot, done, before=lambda _: robot.wait_for_safety(lambda status: status.speed_scale == 1.0))
    result = done.result()

    assert result.verdict is Verdict.PROMOTE, result.reason
    assert phases(heard) == [Phase.SHADOW, Phase.REDUCED_SPEED, Phase.RAMP]
    assert store.aliases()["stable"] == candidate
    robot.wait_for_policy(lambda status: status.active_digest == candidate)
    shadows = heard.of["shadow_action"]
    assert shadows
    assert {m.adapter_digest for m in shadows} == {candidate}
    by_arm = {(m.arm, m.adapter_digest) for m in heard.of["rollout"] if m.phase == 0}
    # One that began after the verdict is driven by the new stable.
    assert {(0, ""), (1, candidate)} <= by_arm <= {(0, ""), (1, candidate), (0, candidate)}
    slow = {m.speed_scale for m in heard.of["action"] if m.adapter_digest == candidate and not m.fault}
    assert {0.5, 1.0} <= slow
    assert {m.speed_scale for m in heard.of["action"] if not m.adapter_digest} == {1.0}
    events = [entry for entry in store.history() if entry["event"].startswith("canary")]
    assert [entry["event"] for entry in events] == ["canary_started", "canary_ended"]
    assert events[1]["verdict"] == "PROMOTE"


def test_a_severe_violation_takes_the_candidate_off_the_arm_in_its_rollout(
    robot: Any,
    heard: Heard,
    start: Callable[..., Any],
    store: AdapterStore,
    candidates: Iterator[str],
    graph: Any,
    make_client: Callable[[], Any],
) -> None:
    stable, candidate = store.aliases()["stable"], next(candidates)
    robot.wait_for_policy(lambda status: status.active_digest == stable)
    operator = make_client()
    with pytest.raises(Exception, match="unknown rule"):
        operator.flag("no/such/rule")
    # Slow for so many rollouts that all of these are the candidate's.
    done = start(
        candidate,
        phases=["offline", "reduced_speed", "ramp"],
        reduced_speed={"speed_scale": 0.5, "rollouts": 20},
    )

    flagged_in_the_air(robot, operator, graph, heard, "keep_out/shelf", 0, max_steps=200)
    result = done.result()
    robot.release()

    assert result.verdict is Verdict.ABORT
    assert "keep_out/shelf" in result.reason
    robot.wait_for_policy(lambda status: status.active_digest == stable)
    assert store.aliases()["stable"] == stable
    with pytest.raises(Exception, match="canary"):
        store.alias("stable", candidate)


def test_a_candidate_that_violates_too_often_is_aborted(
    robot: Any,
    start: Callable[..., Any],
    store: AdapterStore,
    candidates: Iterator[str],
    graph: Any,
    make_client: Callable[[], Any],
    heard: Heard,
) -> None:
    stable, candidate = store.aliases()["stable"], next(candidates)
    robot.wait_until_idle()
    recording = graph.folder / "abort"
    graph.start("recorder", bag=str(recording), use_sim_time=True)
    robot.wait_until_ready(["recorder_node"], 120.0)
    told: list[Any] = []
    robot.subscribe("/diagnostics", lambda message: told.extend(message.status))
    operator = make_client()
    done = start(candidate, phases=["ramp"], ramp={"weights": [1.0], "rollouts": 2})
    for seed in range(20):
        if done.done():
            break
        flagged_in_the_air(robot, operator, graph, heard, "keep_out/mat", seed)
    result = done.result()
    assert result.verdict is Verdict.ABORT, result.reason
    assert "violates" in result.reason
    assert robot.wait_for_policy(lambda status: status.active_digest == stable)
    assert eventually(lambda: heard.of["canary/status"][-1].candidate_violated >= 1)
    ended = [entry for entry in store.history() if entry["event"] == "canary_ended"][-1]
    assert (ended["verdict"], ended["digest"]) == ("ABORT", candidate)
    aborted = f"abort: {result.reason}"
    # Twice: what one has heard the other has by then.
    assert eventually(lambda: [entry.message for entry in told].count(aborted) > 1)
    assert graph.stop("recorder") == 0
    with Bag(recording) as bag:
        said = [bag.deserialize(m) for m in bag.messages(["/canary/status"])]
        entries = [s for m in bag.messages(["/diagnostics"]) for s in bag.deserialize(m).status]
    assert (said[-1].verdict, said[-1].candidate_digest) == (Verdict.ABORT, candidate)
    assert aborted in [
        entry.message for entry in entries if (entry.name, entry.level) == ("vlaforget: canary", 2)
    ]


def test_a_canary_that_cannot_be_is_refused(
    robot: Any, other: Any, store: AdapterStore, candidates: Iterator[str]
) -> None:
    for candidate, protocol, code in (
        ("nobody", "", 100),
        (next(candidates), "/no/such/file.yaml", 501),
        (store.aliases()["stable"], "", 500),
        ("base", "", 500),
    ):
        with pytest.raises(Exception) as refused:
            other.run_canary(candidate, protocol)
        assert refused.value.code == code


def test_promotion_waits_for_an_operator(
    robot: Any, start: Callable[..., Any], store: AdapterStore, candidates: Iterator[str], heard: Heard
) -> None:
    candidate = next(candidates)
    with pytest.raises(CanaryError):
        robot.approve_canary()
    done = start(candidate, phases=["ramp"], ramp={"weights": [1.0], "rollouts": 2}, require_operator=True)
    approved = threading.Event()

    def agree(count: int) -> None:
        newest = heard.of["canary/status"][-1:]
        # Once: the canary is over before its result has come back, and its reason goes on naming the operator.
        if newest and "operator" in newest[0].reason and not approved.is_set():
            robot.approve_canary()
            approved.set()

    drive(robot, done, before=agree)
    assert done.result().verdict is Verdict.PROMOTE
    assert "approved" in done.result().reason
    assert store.aliases()["stable"] == candidate


def test_a_canary_goes_on_after_the_monitor_was_killed(
    robot: Any,
    other: Any,
    graph: Any,
    heard: Heard,
    store: AdapterStore,
    candidates: Iterator[str],
    make_client: Callable[[], Any],
) -> None:
    candidate, operator, moving = next(candidates), make_client(), threading.Event()
    file, unlike = graph.folder / "kept.yaml", graph.folder / "unlike.yaml"
    short = {**PROTOCOL, "phases": ["reduced_speed", "ramp"], "ramp": {"weights": [1.0], "rollouts": 2}}
    file.write_text(yaml.safe_dump(short))
    unlike.write_text(yaml.safe_dump({**short, "max_rollouts": 9}))
    heard.clear()

    def ours() -> list[Any]:
        return [m for m in heard.of["canary/status"] if m.candidate_digest == candidate]

    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(other.run_canary, candidate, str(file), None, 240.0, 20.0)
        # Rollouts from before the canary has begun, or whose end is not yet heard of, do not count.
        for seed in range(20):
            robot.execute(robot.reset_cell("faucet-open", seed))
            if asked.done() or (ours() and ours()[-1].candidate_rollouts):
                break
        counted = ours()[-1].candidate_rollouts
        assert counted, asked
        running = pool.submit(
            robot.execute, robot.reset_cell("faucet-open", 7), on_step=lambda _: moving.set()
        )
        assert moving.wait(60)
        graph.kill("safety_monitor")
        before = len(heard.of["canary/status"])
        start_monitor(graph)
        operator.wait_until_ready(["safety_monitor_node"], 120.0)
        running.result()
        with pytest.raises(CellError, match="restarted"):
            asked.result()
        with pytest.raises(CanaryError, match="another canary"):
            other.run_canary(candidate, str(unlike))
        joined = pool.submit(other.run_canary, candidate, str(file))
        drive(robot, joined)
    result = joined.result()

    assert result.verdict is Verdict.PROMOTE, result.reason
    assert len({m.canary_id for m in ours()}) == 1
    after = [m.candidate_rollouts for m in heard.of["canary/status"][before:]]
    # A rollout may be counted a moment after its end.
    assert after[0] >= counted
    assert after == sorted(after)
    events = [entry["event"] for entry in store.history() if entry.get("canary") == ours()[-1].canary_id]
    assert events == ["canary_started", "canary_resumed", "canary_ended"]
    assert store.aliases()["stable"] == candidate
    assert eventually(lambda: not list((graph.folder / "state").glob("*.canary")))


def test_a_canary_in_its_shadow_goes_on_after_the_monitor_was_killed(
    robot: Any,
    other: Any,
    graph: Any,
    heard: Heard,
    store: AdapterStore,
    candidates: Iterator[str],
    make_client: Callable[[], Any],
) -> None:
    candidate, operator, moving = next(candidates), make_client(), threading.Event()
    file, kept = graph.folder / "shadow.yaml", graph.folder / "state" / "rates.json.canary"
    # More than are over by the time that the file tells of the first.
    shadow = {"rollouts": 6, "max_mean_distance": 1.0, "max_would_be_violations": 9}
    short = {"phases": ["shadow", "ramp"], "ramp": {"weights": [1.0], "rollouts": 2}}
    file.write_text(yaml.safe_dump({**PROTOCOL, **short, "shadow": shadow}))
    robot.wait_until_idle()
    heard.clear()

    def ours() -> list[Any]:
        return [m for m in heard.of["canary/status"] if m.candidate_digest == candidate]

    def counted() -> int:
        return int(json.loads(kept.read_text())["canary"]["shadow_rollouts"]) if kept.exists() else 0

    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(other.run_canary, candidate, str(file), None, 240.0, 20.0)
        for seed in range(20):
            robot.execute(robot.reset_cell("faucet-open", seed))
            if asked.done() or counted():
                break
        assert counted() >= 1, asked
        instruction = robot.reset_cell("faucet-open", 7)
        running = pool.submit(robot.execute, instruction, on_step=lambda _: moving.set())
        assert moving.wait(60)
        graph.kill("safety_monitor")
        at_kill, before, computed = counted(), len(ours()), len(heard.of["shadow_action"])
        assert at_kill < shadow["rollouts"]
        start_monitor(graph)
        operator.wait_until_ready(["safety_monitor_node"], 120.0)
        interrupted = running.result().rollout_id
        with pytest.raises(CellError, match="restarted"):
            asked.result()
        joined = pool.submit(other.run_canary, candidate, str(file))
        drive(robot, joined)
    result = joined.result()

    assert result.verdict is Verdict.PROMOTE, result.reason
    assert len({m.canary_id for m in ours()}) == 1
    # It goes on in its shadow, with what it had counted, and the candidate computes again.
    assert [phase for phase, _ in itertools.groupby(m.phase for m in ours()[before:])] == [
        Phase.SHADOW,
        Phase.RAMP,
    ]
    assert len(heard.of["shadow_action"]) > computed
    record = json.loads((Path(result.report) / "canary.json").read_text())
    assert record["shadow"]["rollouts"] == shadow["rollouts"]
    # Of this one nobody saw all.
    assert not [point for point in record["trace"] if point["rollout_id"] == interrupted and point["counted"]]
    assert store.aliases()["stable"] == candidate
    assert eventually(lambda: not kept.exists())


def test_a_stop_is_released_by_an_operator_and_not_by_a_restart(
    robot: Any, graph: Any, make_client: Callable[[], Any]
) -> None:
    robot.flag("keep_out/shelf")
    robot.wait_for_safety(lambda status: "keep_out/shelf" in status.reason)
    # The arm is told first, the disk after it.
    kept = graph.folder / "state" / "rates.json.stop"
    assert eventually(kept.exists)
    graph.kill("safety_monitor")
    start_monitor(graph)
    # One that has not heard the killed process.
    operator = make_client()
    operator.wait_until_ready(["safety_monitor_node"], 120.0)
    assert operator.wait_for_safety(lambda status: "keep_out/shelf" in status.reason).state == 2
    assert "keep_out/shelf" in operator.release()
    operator.wait_for_safety(lambda status: status.state == 0)
