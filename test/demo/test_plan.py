import pytest
import yaml

from vlaforget_ros.cell.situations import RETAIN, SCENARIOS, SITUATIONS
from vlaforget_ros.demo.plan import make_plan, request
from vlaforget_ros.errors import CellError, ErrorCode
from vlaforget_ros.unlearning.request import read_request


@pytest.mark.parametrize("name", SCENARIOS)
def test_episodes_are_counted_spread_and_disjoint(name: str) -> None:
    plan = make_plan(name, forget=10, retain=13, boundary=5, first_seed=100)
    assert (len(plan.forget), len(plan.retain)) == (10, 13)
    assert {job.situation for job in plan.forget} == set(plan.scenario.forget)
    assert {job.situation for job in plan.retain} == set(RETAIN)
    assert len(set(plan.jobs())) == len(plan.jobs()) == 28
    assert plan.jobs() == make_plan(name, 10, 13, 5, 100).jobs()
    assert min(plan.seeds()) == 100
    assert not {job.situation for job in plan.boundary} & {*plan.scenario.forget, *RETAIN}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_request_is_one_the_unlearning_node_reads(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    plan = make_plan(name)
    document = request(
        plan, tmp_path, [tmp_path / "bag"], ["r0", "r1", "r2"], ["r1", "r2"], "edit-1", {"rank": 8}, seed=3
    )
    read = read_request(yaml.safe_dump(document))
    assert read.forget.violation_rules == (plan.scenario.rule,)
    assert set(read.forget.instructions) == {SITUATIONS[s].instruction for s in plan.scenario.forget}
    assert read.counterfactual[0].kind == plan.scenario.counterfactual
    assert read.parameters.rank == 8
    assert read.seed == 3
    assert read.retain.rollout_ids == ("r0", "r1", "r2")
    assert read.boundary is not None
    assert read.boundary.rollout_ids == ("r1", "r2")


def test_an_unknown_scenario_names_the_nearest() -> None:
    with pytest.raises(CellError) as caught:
        make_plan("tigger")
    assert caught.value.code == ErrorCode.CELL_UNKNOWN_SITUATION
    assert "trigger" in str(caught.value)
