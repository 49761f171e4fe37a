"""What is said of odd sets: overlap, balance, and one recording under two names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edit_parts import wandering_block

from vlaforget_ros.episodes import Episode, EpisodeInfo, EpisodeWriter, Selection, read_episodes, scan_many
from vlaforget_ros.episodes.types import Problem, Violation
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.checks import Finding, check_balance, check_overlap, describe_set
from vlaforget_ros.unlearning.examine import examine
from vlaforget_ros.unlearning.leakage import check_leakage, marks_of
from vlaforget_ros.unlearning.request import read_request
from vlaforget_ros.unlearning.sets import Sets, choose_sets
from vlaforget_ros.unlearning.sources import gather

BROKEN = (Violation("keep_out/hand_zone", "WARN", 5, 1.0, 0.0, "", ""),)


def info(
    name: str, text: str = "open", frames: int = 20, success: bool | None = True, bad: bool = False
) -> EpisodeInfo:
    stamps = np.arange(frames, dtype=np.int64)
    return EpisodeInfo(name, text, "", stamps, success, "", BROKEN if bad else (), "bag", 0)


def sets_of(
    *episodes: EpisodeInfo, retain: Selection | None = None, near: Selection | None = None
) -> Sets[EpisodeInfo]:
    wanted = retain or Selection(rollout_ids=("r*",))
    return choose_sets(episodes, Selection(rollout_ids=("f*",)), wanted, near)


def good() -> list[EpisodeInfo]:
    return [info(f"f{n}", bad=True) for n in range(3)] + [
        info(f"r{n}", "open" if n % 2 else "close", 30) for n in range(6)
    ]


def kinds(found: list[Finding]) -> dict[str, str]:
    return {finding.kind: finding.severity for finding in found}


def test_sound_sets_are_not_remarked_on() -> None:
    assert check_balance(sets_of(*good())) == []


@pytest.mark.parametrize(
    ("episodes", "kind", "says"),
    [
        ([info("f0", bad=True), *good()[3:]], "few_episodes", "forget set has 1 episode"),
        (good()[:7], "few_episodes", "retain set has 4 episodes"),
        ([info(f"f{n}", frames=7) for n in range(3)] + good()[3:], "few_frames", "21 frames"),
        (
            [*good()[:3], *(info(f"r{n}", frames=5) for n in range(6))],
            "small_retain",
            "30 retained frames for 60",
        ),
        ([*good(), info("f9", "shut")], "instruction_not_kept", "'shut'"),
        ([*good(), *(info(f"r1{n}", "close", 90) for n in range(9))], "one_sided", "told 'close'"),
        ([*good(), info("r8", success=False)], "failures_kept", "86% of the retain episodes"),
        ([*good(), info("r8", bad=True)], "violated", "1 episodes of the retain set broke a rule: r8"),
    ],
)
def test_each_oddity_has_a_limit_and_a_remedy(episodes: list[EpisodeInfo], kind: str, says: str) -> None:
    (finding,) = [f for f in check_balance(sets_of(*episodes)) if f.kind == kind]
    assert says in finding.message
    assert finding.severity == "warning"
    assert finding.limit
    assert finding.remedy
    assert f"warning ({kind}): " in str(finding)


def test_where_another_instruction_shows_what_is_right_it_need_not_be_kept() -> None:
    sets = sets_of(*good(), info("f9", "shut"))
    assert kinds(check_balance(sets, neighbour_source=True)) == {"instruction_not_kept": "note"}


def test_overlaps_are_said_and_harmless() -> None:
    episodes = good()
    near = Selection(rollout_ids=("f0", "r1"))
    sets = sets_of(*episodes, near=near)
    twice = [Problem("rollout_repeated", "r3", 1, "twice", "bag2"), Problem("other", "r4", 1, "", "")]
    kept = {"retain": Selection(outcome="success"), "boundary": near}
    found = check_overlap(sets, episodes, kept, twice)
    assert kinds(found) == {"also_forgotten": "note", "also_retained": "note", "recorded_twice": "note"}
    texts = [finding.message for finding in found]
    assert "3 episodes of the forget set fit the retain selection, too: f0, f1, f2" in texts[0]
    assert "1 episodes of the forget set fit the boundary selection, too: f0" in texts[1]
    assert "r1" in texts[2]
    assert "r3" in texts[3]
    assert [e.rollout_id for e, _ in sets.boundary] == ["r1"]


def test_a_set_is_described_by_what_is_known() -> None:
    chosen = [
        (info("a", "x", 4), np.arange(2)),
        (info("b", "y", 4, None), np.arange(3)),
        (info("c", "x", 4, False), np.arange(1)),
    ]
    assert describe_set(chosen) == {
        "episodes": 3, "frames": 6, "success": 0.5, "violated": 0, "instructions": {"x": 3, "y": 3},
    }  # fmt: skip


def episode(name: str, seed: int, noise: int = 6, count: int = 14) -> Episode:
    """A block that wanders past, by other actions for each seed."""
    rng = np.random.default_rng(seed)
    images = wandering_block(seed, False, count)
    if noise:
        images = (images.astype(int) + rng.integers(0, noise, images.shape)).clip(0, 255).astype(np.uint8)
    return Episode(
        rollout_id=name,
        instruction="open",
        adapter_digest="",
        stamps_ns=np.arange(count, dtype=np.int64),
        success=True,
        phase="SUCCEEDED",
        violations=(),
        source=f"bag-{name}",
        dropped_frames=0,
        images=images,
        actions=rng.normal(size=(count, 4)).astype(np.float32),
    )


def test_episodes_of_one_scene_do_not_leak() -> None:
    assert (
        check_leakage([marks_of(episode("f", 1))], [marks_of(episode("r", seed)) for seed in range(2, 8)])
        == []
    )


def test_a_cut_copy_under_another_name_leaks() -> None:
    whole = episode("f", 1)
    cut = replace(
        whole,
        rollout_id="r",
        images=whole.images[9:],
        actions=whole.actions[9:],
        stamps_ns=whole.stamps_ns[9:],
    )
    (finding,) = check_leakage([marks_of(whole)], [marks_of(episode("r2", 2)), marks_of(cut)])
    assert (finding.kind, finding.severity) == ("leakage", "warning")
    assert "100% of forget episode f (bag-f) is in kept episode r (bag-f)" in finding.message


def test_a_third_of_the_frames_in_common_is_no_copy() -> None:
    """Episodes of one scene, by a policy whose actions are few bins, begin alike."""
    one, other = episode("f", 1, noise=0), episode("r", 1, noise=0)
    other.actions[5:] += 1
    other.images[5:] = 255 - other.images[5:]
    other.images[0, 0, 0] += 1
    assert check_leakage([marks_of(one)], [marks_of(other)]) == []


def test_the_same_start_is_only_noted() -> None:
    one, other = episode("f", 1), episode("r", 2)
    other.images[0] = one.images[0]
    (finding,) = check_leakage([marks_of(one)], [marks_of(other)])
    assert (finding.kind, finding.severity) == ("same_start", "note")


def test_a_recording_packed_as_jpeg_under_another_name_leaks(tmp_path: Path) -> None:
    source = episode("f", 1, noise=0)
    for compressed in ("", "jpeg"):
        with EpisodeWriter(tmp_path / f"bag{compressed}", compressed=compressed) as writer:
            writer.begin(f"r{compressed}", "open")
            for image, action in zip(source.images, source.actions, strict=True):
                writer.frame(image, action)
            writer.end(True)
    raw, packed = (read_episodes(tmp_path / f"bag{c}").episodes[0] for c in ("", "jpeg"))
    assert not set(marks_of(raw).hashes) & set(marks_of(packed).hashes)
    assert [f.kind for f in check_leakage([marks_of(raw)], [marks_of(packed)])] == ["leakage"]
    moved = replace(packed, actions=packed.actions + 0.1)
    assert check_leakage([marks_of(raw)], [marks_of(moved)]) == []


def test_an_edit_notes_the_warnings_and_learns_the_same(request_text: str, policy: VlaPolicy) -> None:
    request = read_request(request_text.replace("[{kind: transplant}]", "[]"))
    small = request.model_copy(update={"forget": Selection(rollout_ids=("bad-0",))})
    found = gather(small, policy)
    assert any("warning (few_episodes): the forget set has 1 episode" in note for note in found.notes)
    assert not any("warning" in note for note in gather(request, policy).notes)


def test_an_examined_request_counts_frames_as_an_edit_reads_them(
    request_text: str, bag: Path, policy: VlaPolicy
) -> None:
    request = read_request(request_text.replace("[{kind: transplant}]", "[]"))
    found = examine(request, scan_many([bag]), images=True)
    sizes = {name: sum(frames.values()) for name, frames in found.sets.sizes().items()}
    assert sizes == {name: len(frames) for name, frames in gather(request, policy).data.sets().items()}
    assert [finding.kind for finding in found.findings] == []
