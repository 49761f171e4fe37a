"""The interface definitions against the design: every field it names, and a comment on each."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for folder in ("msg", "srv", "action") for path in (ROOT / folder).iterdir())
SWAP_ANSWER = "success error_code message previous_digest active_digest staged_ms swap_ms effective_step"
# Names of the fields as the interface design lists them; sections of services and actions in order.
DESIGN = {
    "PolicyAction": [
        "header observation_stamp rollout_id step action adapter_digest base_digest inference_ms fault"
        " speed_scale"
    ],
    "Rollout": ["header rollout_id instruction adapter_digest arm phase steps"],
    "RolloutOutcome": ["rollout_id success source"],
    "SafetyViolation": [
        "header rollout_id adapter_digest rule severity value limit unit message",
    ],
    "SvrEstimate": [
        "adapter_digest alias rollouts violated succeeded unsafe_successes svr svr_low svr_high"
        " tsr tsr_low tsr_high sbu sbu_low sbu_high"
    ],
    "SafetyStatus": ["header state speed_scale reason estimates"],
    "AdapterInfo": [
        "digest name base_digest parent_digest method components layers rank bytes created aliases resident"
        " signer gates_passed"
    ],
    "PolicyStatus": [
        "header state model base_digest active_digest resident rate_hz inference_ms_p50 inference_ms_p99"
        " missed_ticks last_fault"
    ],
    "CanaryStatus": [
        "header canary_id seed candidate_digest stable_digest phase weight speed_scale verdict reason"
    ],
    "SwapAdapter": ["adapter", SWAP_ANSWER],
    "RollbackAdapter": ["reason automatic only_from", SWAP_ANSWER],
    "ListAdapters": ["", "adapters"],
    "FlagViolation": ["rule note", "violation_id"],
    "ResetCell": ["situation seed", "success error_code message instruction stamp"],
    "ExecuteInstruction": [
        "instruction max_steps adapter seed",
        "rollout_id outcome steps adapter_digest violations",
        "step",
    ],
    "Unlearn": [
        "request name resume",
        "success error_code message adapter_digest report metric_names metric_values",
        "stage round step total_steps loss_names loss_values eta_s peak_memory_mb doing",
    ],
    "RunCanary": ["candidate protocol", "verdict reason report", "status"],
}
CONSTANTS = {
    "Rollout": "ARM_STABLE ARM_CANDIDATE ARM_PINNED PHASE_STARTED PHASE_SUCCEEDED PHASE_FAILED PHASE_ABORTED",
    "SafetyViolation": "SEVERITY_WARN SEVERITY_SLOW SEVERITY_STOP",
    "SafetyStatus": "STATE_NOMINAL STATE_SLOWED STATE_STOPPED",
    "CanaryStatus": "PHASE_OFFLINE PHASE_SHADOW PHASE_REDUCED_SPEED PHASE_RAMP"
    " VERDICT_RUNNING VERDICT_PROMOTE VERDICT_HOLD VERDICT_ABORT",
}
FIELD = re.compile(
    r"^(?P<type>[\w/]+(\[\])?)\s+(?P<name>\w+)(?P<constant>\s*=\s*\S+)?\s*(#\s*(?P<comment>.*))?$"
)


def _sections(path: Path) -> list[list[re.Match[str]]]:
    sections: list[list[re.Match[str]]] = [[]]
    for line in path.read_text(encoding="utf-8").splitlines():
        if line == "---":
            sections.append([])
        elif line.strip() and not line.lstrip().startswith("#"):
            match = FIELD.match(line)
            assert match is not None, f"{path.name}: {line}"
            sections[-1].append(match)
    return sections


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_field_of_the_design_is_there(path: Path) -> None:
    sections = _sections(path)
    designed = DESIGN[path.stem]
    assert len(sections) == len(designed)
    for fields, names in zip(sections, designed, strict=True):
        present = [field["name"] for field in fields if not field["constant"]]
        assert set(names.split()) <= set(present)


def test_every_interface_of_the_design_is_defined() -> None:
    assert {path.stem for path in FILES} == set(DESIGN)


@pytest.mark.parametrize("name", CONSTANTS)
def test_the_named_values_of_the_design_are_constants(name: str) -> None:
    (fields,) = _sections(ROOT / "msg" / f"{name}.msg")
    assert {field["name"] for field in fields if field["constant"]} == set(CONSTANTS[name].split())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_field_says_what_it_means(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")
    named = {"header"}  # std_msgs/Header explains itself where the stamp needs no more words
    for fields in _sections(path):
        for field in fields:
            assert field["comment"] or field["constant"] or field["name"] in named, f"{path.name}: {field[0]}"


@pytest.mark.parametrize(
    ("suffix", "unit"), [("_ms", "[ms]"), ("_hz", "[Hz]"), ("_s", "[s]"), ("_mb", "[MB]"), ("bytes", "[B]")]
)
def test_names_with_a_unit_state_it_in_the_comment(suffix: str, unit: str) -> None:
    checked = 0
    for path in FILES:
        for field in (field for section in _sections(path) for field in section):
            if field["name"].endswith(suffix) and field["name"] != "staged_ms":
                assert unit in str(field["comment"]), f"{path.name}: {field[0]}"
                checked += 1
    assert checked


@pytest.mark.ros
def test_the_generated_types_have_the_fields_of_the_files() -> None:
    import importlib

    for path in FILES:
        module = importlib.import_module(f"vlaforget_ros.{path.parent.name}")
        generated = getattr(module, path.stem)
        parts = {"msg": ("",), "srv": ("Request", "Response"), "action": ("Goal", "Result", "Feedback")}
        for fields, part in zip(_sections(path), parts[path.parent.name], strict=True):
            kind = getattr(generated, part) if part else generated
            present = [field["name"] for field in fields if not field["constant"]]
            assert list(kind.get_fields_and_field_types()) == present
