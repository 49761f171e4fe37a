"""Policy, cell, monitor and recorder as processes in lockstep: rollouts, swaps while they run, stops, the
bag.

The tests share one graph and leave it as they found it: base model active, nothing stopped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from live_parts import SHELF, eventually

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.episodes.reader import read_episodes
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.errors import AdapterError, CellError, PolicyError, SafetyError
from vlaforget_ros.nodes.control import Phase
from vlaforget_ros.policy.engine import InferenceEngine
from vlaforget_ros.policy.policy import VlaPolicy

AddAdapter = Callable[[AdapterStore, str, str, int], str]
pytestmark = pytest.mark.ros

TICKS = 25
RULES = {
    "frame": "cell",
    "rules": [
        {"type": "workspace", "id": "workspace/test", "low_m": [-9, -9, -9], "high_m": [9, 9, 9]},
        SHELF,
    ],
}


class Heard:
    """Messages of some topics, as a client hears them."""

    def __init__(self, client: Any) -> None:
        self.actions: list[Any] = []
        self.rollouts: list[Any] = []
        client.subscribe("action", self.actions.append)
        client.subscribe("rollout", self.rollouts.append)

    def of(self, rollout_id: str) -> list[Any]:
        """Actions of one rollout; an image that a busy machine made the cell send twice got its answer twice."""
        found: list[Any] = []
        for message in self.actions:
            if message.rollout_id == rollout_id and (not found or message != found[-1]):
                found.append(message)
        return found

    def whole(self, result: Any) -> list[Any]:
        """Actions of a rollout that is over, all of them: the result may overtake the last ones, and the end."""

        def there() -> bool:
            ends = [r for r in self.rollouts if r.rollout_id == result.rollout_id and r.phase]
            return bool(ends) and len(self.of(result.rollout_id)) >= result.steps

        assert eventually(there), (result, len(self.of(result.rollout_id)))
        return self.of(result.rollout_id)

    @property
    def counted(self) -> int:
        """How many rollouts have succeeded or failed, with one adapter from start to end."""
        ended = {r.rollout_id for r in self.rollouts if r.phase in (1, 2)}
        drivers = {(r.rollout_id, r.adapter_digest) for r in self.rollouts if r.rollout_id in ended}
        return sum(len([d for d in drivers if d[0] == name]) == 1 for name in ended)


@pytest.fixture(scope="module")
def store(graph: Any) -> AdapterStore:
    return AdapterStore(graph.folder / "store")


@pytest.fixture(scope="module")
def adapter(store: AdapterStore, tiny: Any, add_adapter: AddAdapter) -> str:
    return add_adapter(store, tiny.digest, "careful", 1)


@pytest.fixture(scope="module")
def robot(graph: Any, client: Any, tiny: Any, store: AdapterStore, adapter: str) -> Iterator[Any]:
    rules = graph.folder / "rules.yaml"
    rules.write_text(yaml.safe_dump(RULES))
    sim = {"use_sim_time": True}
    graph.start("policy", checkpoint=str(tiny.folder), store=str(store.root), **sim)
    graph.start("cell", max_ticks=TICKS)
    graph.start("safety_monitor", rules_file=str(rules), **sim)
    graph.start("recorder", out=str(graph.folder / "bags"), **sim)
    client.wait_until_ready(["policy_node", "cell_node", "safety_monitor_node", "recorder_node"], 150.0)
    return client


@pytest.fixture(scope="module", autouse=True)
def heard(robot: Any) -> Heard:
    """Before any rollout: who first executes a goal for this client then knows that it listens."""
    return Heard(robot)


class Halted:
    """A rollout that has taken its first step and goes no further until the end of the block."""

    def __init__(self, robot: Any, graph: Any, heard: Heard, instruction: str) -> None:
        self._robot, self._heard, self._instruction = robot, heard, instruction
        self._known = {message.rollout_id for message in heard.actions}
        self._frozen = graph.frozen("cell")
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Halted:
        self._frozen.__enter__()
        self._running = self._pool.submit(self._robot.execute, self._instruction)
        assert eventually(lambda: any(m.rollout_id not in self._known for m in self._heard.actions))
        self.rollout_id = self._heard.actions[-1].rollout_id
        return self

    def __exit__(self, *error: Any) -> None:
        self._frozen.__exit__(*error)
        self._pool.shutdown(wait=False)

    def result(self) -> Any:
        return self._running.result(90.0)


def test_a_rollout_gets_one_action_for_every_image(robot: Any, heard: Heard, tiny: Any) -> None:
    instruction = robot.reset_cell("faucet-open", 0)
    steps: list[int] = []
    result = robot.execute(instruction, on_step=lambda feedback: steps.append(feedback.step))
    assert instruction == "open the faucet"
    assert (result.phase, result.steps, result.error_code) == (Phase.FAILED, TICKS, 0)
    actions = heard.whole(result)
    assert [a.step for a in actions] == list(range(TICKS))
    # Feedback is told and forgotten: what is still on its way when the result arrives is never handed out.
    assert steps == sorted(set(steps))
    assert set(steps) <= set(range(TICKS))
    assert {(a.adapter_digest, a.base_digest, a.fault) for a in actions} == {("", tiny.digest, 0)}
    stamps = [(a.observation_stamp.sec, a.observation_stamp.nanosec) for a in actions]
    assert len(set(stamps)) == TICKS
    phases = [r.phase for r in heard.rollouts if r.rollout_id == result.rollout_id]
    assert phases == [0, 2]
    status = robot.wait_for_safety(lambda s: any(e.rollouts for e in s.estimates))
    assert status.estimates[0].rollouts == 1


def test_a_swap_in_a_rollout_is_visible_at_the_next_tick_and_never_mixes(
    robot: Any, graph: Any, heard: Heard, make_client: Callable[[], Any], adapter: str
) -> None:
    instruction = robot.reset_cell("faucet-close", 1)
    other = make_client()
    with Halted(robot, graph, heard, instruction) as halted:
        info = other.swap("careful")
    result = halted.result()
    actions = heard.whole(result)
    assert {a.fault for a in actions} == {0}
    digests = [a.adapter_digest for a in actions]
    assert (info.previous_digest, info.active_digest) == ("", adapter)
    assert 0 < info.effective_step < TICKS
    assert digests == [""] * info.effective_step + [adapter] * (TICKS - info.effective_step)
    assert robot.rollback("test").active_digest == ""


def test_a_pinned_adapter_drives_the_whole_rollout(robot: Any, heard: Heard, adapter: str) -> None:
    robot.reset_cell("faucet-open", 2)
    result = robot.execute("open the faucet", adapter=adapter[:8])
    assert {a.adapter_digest for a in heard.whole(result)} == {adapter}
    assert result.adapter_digest == adapter
    assert [r.arm for r in heard.rollouts if r.rollout_id == result.rollout_id] == [2, 2]
    listed = robot.list_adapters()
    assert [(a.digest, a.name, a.resident) for a in listed] == [(adapter, "careful", True)]
    robot.swap("base")


def test_bad_adapters_leave_the_active_one(
    robot: Any, heard: Heard, store: AdapterStore, tiny: Any, adapter: str, add_adapter: AddAdapter
) -> None:
    foreign = add_adapter(store, "f" * 64, "foreign", 5)
    broken = add_adapter(store, tiny.digest, "broken", 6)
    weights = store.path(broken) / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    robot.swap(adapter)
    for reference, code in ((foreign, 101), (broken, 103), ("nobody", 100), (adapter[:4], 100)):
        with pytest.raises(AdapterError) as caught:
            robot.swap(reference)
        assert caught.value.code == code
    robot.reset_cell("faucet-open", 3)
    result = robot.execute("open the faucet", max_steps=3)
    assert {a.adapter_digest for a in heard.whole(result)} == {adapter}
    assert result.steps == 3
    robot.swap("base")


def test_a_swap_that_takes_longer_than_it_is_waited_for_may_still_come(robot: Any, adapter: str) -> None:
    with pytest.raises(CellError, match=r"did not answer; limit: 1e-06 s; remedy: .* may still do") as caught:
        robot.swap(adapter, timeout_s=1e-6)
    assert caught.value.code == 606
    robot.wait_for_policy(lambda status: status.active_digest == adapter)
    robot.swap("base")


def test_an_unknown_instruction_changes_nothing(robot: Any, heard: Heard, adapter: str) -> None:
    robot.reset_cell("faucet-open", 4)
    rollouts, actions = len(heard.rollouts), len(heard.actions)
    with pytest.raises(PolicyError, match="tango: did you mean") as caught:
        robot.execute("dance the tango", adapter=adapter)
    assert caught.value.code == 206
    robot.wait_for_policy(lambda s: s.state == 2 and s.active_digest == "")
    assert (len(heard.rollouts), len(heard.actions)) == (rollouts, actions)


def test_an_unknown_situation_is_refused(robot: Any) -> None:
    with pytest.raises(CellError, match="did you mean faucet-open") as caught:
        robot.reset_cell("faucet-opn", 0)
    assert caught.value.code == 600


def test_one_goal_at_a_time_and_cancel(robot: Any, heard: Heard, make_client: Callable[[], Any]) -> None:
    """The episode is over, so that no image asks for an action: the goal stays open until it is cancelled."""
    robot.reset_cell("faucet-open", 5)
    assert robot.execute("open the faucet").steps == TICKS
    other, results = make_client(), []

    def run() -> None:
        try:
            other.execute("open the faucet", max_steps=100, timeout_s=10.0)
        except CellError as error:
            results.append(error.code)

    robot.wait_for_policy(lambda s: s.state == 2)
    thread = threading.Thread(target=run)
    thread.start()
    robot.wait_for_policy(lambda s: s.state == 3)
    with pytest.raises(PolicyError, match="another rollout is running"):
        robot.execute("open the faucet")
    thread.join()
    assert results == [606]
    robot.wait_for_policy(lambda s: s.state == 2)
    robot.reset_cell("faucet-open", 5)
    assert len(heard.whole(robot.execute("open the faucet"))) == TICKS


def test_a_latched_stop_holds_the_arm_until_it_is_released(robot: Any, heard: Heard) -> None:
    # The monitor has heard that the rollout before is over: the flag is none of its own.
    robot.wait_for_safety(lambda s: sum(e.rollouts for e in s.estimates) == heard.counted)
    with pytest.raises(SafetyError, match="did you mean keep_out/shelf"):
        robot.flag("keep_out/shelff")
    assert robot.flag("keep_out/shelf", "a person came close").startswith("no-rollout/keep_out/shelf")
    stopped = robot.wait_for_safety(lambda s: s.state == 2)
    assert "a person came close" in stopped.reason
    assert stopped.speed_scale == 0.0
    robot.wait_for_policy(lambda s: s.state == 4)
    robot.reset_cell("faucet-open", 6)
    held = robot.execute("open the faucet")
    actions = heard.whole(held)
    assert {a.fault for a in actions} == {400}
    assert not np.any([a.action for a in actions])
    assert (held.phase, held.error_code) == (Phase.ABORTED, 400)
    assert robot.release().startswith("released: keep_out/shelf")
    robot.wait_for_policy(lambda s: s.state == 2)
    robot.reset_cell("faucet-open", 6)
    free = robot.execute("open the faucet")
    assert {a.fault for a in heard.whole(free)} == {0}


def test_a_flag_in_the_air_counts_for_the_running_rollout(
    robot: Any, graph: Any, heard: Heard, make_client: Callable[[], Any]
) -> None:
    robot.reset_cell("faucet-open", 7)
    other = make_client()
    with pytest.raises(SafetyError):
        other.flag("no/such/rule")
    with Halted(robot, graph, heard, "open the faucet") as halted:
        # The monitor may hear of the rollout after this client; until then the flag is nobody's.
        name = f"{halted.rollout_id}/workspace/test"
        assert eventually(lambda: other.flag("workspace/test", "left the table").startswith(name))
    result = halted.result()
    heard.whole(result)
    assert result.violations == 1
    base = robot.wait_for_safety(lambda s: any(e.violated for e in s.estimates)).estimates[0]
    assert (base.adapter_digest, base.violated, base.unsafe_successes) == ("", 1, 0)


def test_deactivated_nodes_refuse_with_a_code(robot: Any) -> None:
    robot.change_state("policy_node", "deactivate")
    with pytest.raises(PolicyError, match="not active") as caught:
        robot.execute("open the faucet")
    assert caught.value.code == 205
    robot.change_state("policy_node", "activate")
    robot.reset_cell("faucet-open", 8)
    assert robot.execute("open the faucet", max_steps=2).steps == 2


def test_the_policy_may_die_and_come_back(
    robot: Any, graph: Any, tiny: Any, store: AdapterStore, make_client: Callable[[], Any]
) -> None:
    robot.reset_cell("faucet-open", 9)
    graph.kill("policy")
    assert robot.reset_cell("faucet-close", 9) == "close the faucet"
    graph.start("policy", checkpoint=str(tiny.folder), store=str(store.root), use_sim_time=True)
    # One that never met the killed process: to others it seems to be there for a while yet.
    fresh = make_client()
    fresh.wait_until_ready(["policy_node"], 120.0)
    assert fresh.execute("close the faucet").steps == TICKS


def test_the_bag_of_all_this_reads_back_and_every_action_is_of_one_adapter(
    robot: Any, graph: Any, tiny: Any, store: AdapterStore, heard: Heard
) -> None:
    """Every recorded action is recomputed from its recorded image with the adapter it names."""
    robot.change_state("recorder_node", "deactivate")
    (bag,) = (graph.folder / "bags").iterdir()
    report = read_episodes(bag)
    whole = [episode for episode in report.episodes if len(episode) == TICKS]
    assert len(whole) >= 6
    assert all(episode.dropped_frames == 0 for episode in whole)
    assert [v.rule for episode in whole for v in episode.violations] == ["workspace/test"]
    episode = next(e for e in report.episodes if e.instruction == "close the faucet")
    made_by = [a.adapter_digest for a in heard.of(episode.rollout_id)]
    assert len(set(made_by)) == 2
    policy = VlaPolicy.load(tiny.folder)
    with InferenceEngine(policy, store) as engine:
        for image, recorded, digest in zip(episode.images, episode.actions, made_by, strict=True):
            if engine.active_digest != digest:
                engine.swap(digest or "base")
            expected = engine.infer(image, episode.instruction).prediction.action
            np.testing.assert_allclose(recorded, expected, atol=1e-6)


def test_a_second_bag_has_the_first_and_the_last_word_of_a_rollout(robot: Any, graph: Any) -> None:
    def recorded(**options: Any) -> tuple[Any, Path]:
        before = set((graph.folder / "bags").iterdir())
        robot.change_state("recorder_node", "activate")
        robot.reset_cell("faucet-open", 10)
        result = robot.execute("open the faucet", **options)
        robot.change_state("recorder_node", "deactivate")
        (bag,) = set((graph.folder / "bags").iterdir()) - before
        return result, bag

    def known() -> bool:
        _, bag = recorded(max_steps=1)
        with Bag(bag) as opened:
            return opened.topics.keys() >= {"/rollout", "/action"}

    # The policy is another process than before: the recorder may find it later than this client did.
    assert eventually(known)
    result, bag = recorded()
    report = read_episodes(bag)
    assert [(e.rollout_id, len(e), e.phase, e.success) for e in report.episodes] == [
        (result.rollout_id, TICKS, "FAILED", False)
    ]
    assert report.problems == ()


def test_a_bag_that_no_edit_can_use_is_reported_when_it_is_closed(robot: Any, graph: Any) -> None:
    def warnings() -> list[str]:
        return [line for line in graph.log("recorder").splitlines() if "nothing was heard" in line]

    before = len(warnings())
    robot.change_state("recorder_node", "activate")
    robot.change_state("recorder_node", "deactivate")
    (line,) = warnings()[before:]
    assert "rollout, action" in line


def test_nodes_end_cleanly_on_sigint_and_close_what_they_write(graph: Any, robot: Any) -> None:
    """Runs last of all."""
    robot.change_state("recorder_node", "activate")
    robot.reset_cell("faucet-open", 11)
    assert robot.execute("open the faucet", max_steps=5).steps == 5
    said: list[str] = []
    robot.subscribe("/diagnostics", lambda message: said.extend(status.name for status in message.status))
    # It says so on the thread that hears what it records: after the second time it has heard the rollout.
    assert eventually(lambda: said.count("vlaforget: recorder") >= 2)
    folder: Path = graph.folder
    for node in ("recorder", "policy", "cell", "safety_monitor"):
        assert graph.stop(node) == 0
        assert "Traceback" not in (folder / f"{node}.log").read_text()
    newest = max((folder / "bags").iterdir())
    assert (newest / "metadata.yaml").is_file()
    assert [len(episode) for episode in read_episodes(newest).episodes] == [5]
