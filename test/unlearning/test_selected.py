"""What a request says it chose: old digests stay, changes of the data are refused with what changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from vlaforget_ros.episodes import EpisodeWriter, scan_many
from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.examine import examine
from vlaforget_ros.unlearning.request import Request, parse_request, read_request
from vlaforget_ros.unlearning.selected import Selected, bag_changes, hash_bag, hash_bags
from vlaforget_ros.unlearning.sources import gather

OLD = """base: base
bags: [bag]
forget: {violation_rule: keep_out/hand_zone, before_s: 3.0, after_s: 1.0}
retain: {outcome: success, has_violation: false}
boundary: {rollout_id: near-*, max_frames: 100}
counterfactual: [{kind: transplant}]
"""


@pytest.mark.parametrize(
    ("more", "digest"),
    [
        ("", "f15c2eb0e0fdd24c54893414b7ef12cccbcaae768b9534f722d473821de5e695"),
        (
            "cameras: [wrist]\nstate: joints\n",
            "68dae79ed27410417e8f25dd36633161b69bcfab5d0c8d6f97bffd91197154f4",
        ),
    ],
)
def test_digests_of_recorded_edits_stay(more: str, digest: str) -> None:
    """Computed at 019fde7, before there were `selected`, `objects`, `flagged`, `since` and `until`.

    With a method whose parameters stay: defaults are in the digest, and vla_forget's have changed since.
    """
    assert read_request(OLD + "method: npo\n" + more).digest == digest


def test_a_default_written_out_is_the_same_request_and_another_value_is_not() -> None:
    """Otherwise an edit begun with other defaults would be taken up with the new ones."""
    plain = read_request(OLD)
    share = plain.model_dump()["parameters"]["min_share"]
    assert read_request(f"{OLD}parameters: {{min_share: {share}}}\n").digest == plain.digest
    assert read_request(f"{OLD}parameters: {{min_share: {share / 2}}}\n").digest != plain.digest


@pytest.mark.parametrize(
    "line", ["object: mug", "flagged: true", "since: 5.0", "until: 2026-11-20T14:05:00Z"]
)
def test_new_conditions_change_the_digest(line: str) -> None:
    assert (
        read_request(OLD.replace("after_s: 1.0", f"after_s: 1.0, {line}")).digest != read_request(OLD).digest
    )


def pinned(text: str) -> Request:
    """The request with what it chooses."""
    request = read_request(text)
    sets = examine(request, scan_many([Path(bag) for bag in request.bags]), images=True).sets
    selected = Selected(bags=hash_bags([Path(bag) for bag in request.bags]), **sets.sizes())
    return parse_request({**request.model_dump(mode="json"), "selected": selected.model_dump(mode="json")})


@pytest.fixture
def quick(request_text: str) -> str:
    return request_text.replace("[{kind: transplant}]", "[]")


def test_unchanged_bags_are_taken_as_before(quick: str, policy: VlaPolicy) -> None:
    plain, request = read_request(quick), pinned(quick)
    assert request.digest != plain.digest
    assert request.selected is not None
    assert request.selected.forget == {"bad-0": 14, "bad-1": 14, "bad-2": 14}
    assert set(request.selected.boundary) == {"near-8", "near-9"}
    assert gather(request, policy).data.digests() == gather(plain, policy).data.digests()
    again = parse_request(yaml.safe_load(yaml.safe_dump(request.model_dump(mode="json"))))
    assert again.digest == request.digest


def test_a_moved_and_reindexed_bag_is_the_same(bag: Path) -> None:
    before = hash_bag(bag)
    (bag / "metadata.yaml").unlink()
    storage = next(bag.glob("*.mcap"))
    storage.rename(bag / "renamed.mcap")
    moved = bag.rename(bag.with_name("elsewhere"))
    assert hash_bag(moved) == before == hash_bag(moved / "renamed.mcap")


def test_one_changed_byte_is_refused_and_named(quick: str, bag: Path, policy: VlaPolicy) -> None:
    request = pinned(quick)
    storage = next(bag.glob("*.mcap"))
    content = bytearray(storage.read_bytes())
    content[-1] ^= 1
    storage.write_bytes(content)
    with pytest.raises(UnlearningError, match="data changed since the request was made") as error:
        gather(request, policy)
    assert error.value.code == ErrorCode.UNLEARNING_BAD_REQUEST
    assert f"bag {bag} has another content ({len(content)} bytes as before)" in error.value.value


def test_a_bag_that_is_gone_is_named(quick: str, bag: Path) -> None:
    request = pinned(quick)
    shutil.rmtree(bag)
    assert bag_changes(request) == [f"bag {bag} is gone"]


def test_a_selection_that_was_changed_by_hand_is_refused(quick: str, policy: VlaPolicy) -> None:
    request = pinned(quick)
    narrower = request.forget.model_copy(update={"before_s": 0.3, "after_s": 0.0})
    with pytest.raises(UnlearningError) as error:
        gather(request.model_copy(update={"forget": narrower}), policy)
    assert "forget: bad-0 (14 frames, now 4)" in error.value.value
    fewer = request.retain.model_copy(update={"rollout_ids": ("good-3", "good-4", "near-8")})
    with pytest.raises(UnlearningError) as error:
        gather(request.model_copy(update={"retain": fewer}), policy)
    assert "retain: gone good-5, good-6, good-7" in error.value.value


def test_the_number_of_bags_must_fit(quick: str) -> None:
    values = pinned(quick).model_dump(mode="json")
    with pytest.raises(UnlearningError, match="has 1 entries for 2"):
        parse_request({**values, "bags": [*values["bags"], "more"]})


def test_a_split_bag_counts_all_its_files(tmp_path: Path, bag: Path) -> None:
    with EpisodeWriter(tmp_path / "other") as writer:
        writer.begin("r", "go")
        writer.end(True)
    alone = hash_bag(bag)
    shutil.copy(next((tmp_path / "other").glob("*.mcap")), bag / "zz_1.mcap")
    both = hash_bag(bag)
    assert both.sha256 != alone.sha256
    assert both.size > alone.size


def test_of_another_data_set_all_files_count_with_their_places(tmp_path: Path) -> None:
    for name in ("meta/info.json", "data/one.parquet"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        (tmp_path / "set" / name).write_text(name)
    before = hash_bag(tmp_path / "set")
    moved = (tmp_path / "set").rename(tmp_path / "moved")
    assert hash_bag(moved) == before
    (moved / "data/one.parquet").rename(moved / "data/two.parquet")
    assert hash_bag(moved).sha256 != before.sha256


def test_what_is_no_bag_cannot_be_hashed(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UnlearningError) as error:
            hash_bag(path)
        assert error.value.code == ErrorCode.UNLEARNING_BAG_UNREADABLE
