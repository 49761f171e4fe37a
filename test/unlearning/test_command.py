"""`vlaforget unlearn` and `vlaforget methods`: another method on the same request, what is shown, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vlaforget_ros.adapters.store import AdapterStore
from vlaforget_ros.cli.app import app
from vlaforget_ros.cli.unlearn import _report
from vlaforget_ros.errors import UnlearningError, VlaForgetError
from vlaforget_ros.unlearning import child, process
from vlaforget_ros.unlearning.methods import METHODS
from vlaforget_ros.unlearning.process import Done, Progress
from vlaforget_ros.unlearning.request import read_request

runner = CliRunner()


@pytest.fixture
def request_file(tmp_path: Path, request_text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A request for three steps of gradient ascent, in the working folder."""
    monkeypatch.chdir(tmp_path)
    head, _, _ = request_text.replace("[{kind: transplant}]", "[]").partition("parameters:")
    small = "batch_forget: 4, batch_retain: 4, batch_boundary: 4"
    path = tmp_path / "request.yaml"
    path.write_text(
        f"{head}method: grad_diff\nparameters: {{steps: 3, rank: 4, lora_alpha: 8, gamma: 2.0, {small}}}\n"
    )
    return path


def test_the_methods_are_listed_with_their_sources() -> None:
    shown = runner.invoke(app, ["methods"])
    assert shown.exit_code == 0
    assert all(key in shown.output for key in METHODS)
    listed = json.loads(runner.invoke(app, ["methods", "--json"]).output)
    assert [row["key"] for row in listed] == list(METHODS)
    assert listed[3] == {
        "key": "npo",
        "method": "negative preference optimisation: ascent that saturates",
        "source": "arXiv 2404.05868",
    }


class Here:
    """In place of a child process, which a busy machine lets wait: the same edit in this one."""

    def __init__(self, command: Sequence[str], log: Path, told: Callable[[str], object]) -> None:
        given = dict(zip(command[5::2], command[6::2], strict=True))
        self._request, self._out, self._store = (
            Path(given[f"--{name}"]) for name in ("request", "out", "store")
        )

    def events(self) -> Iterator[Progress | Done]:
        events: list[dict[str, Any]] = []
        request = read_request(self._request)
        done = child.run(request, self._out, False, self._store, lambda: False, events.append)
        yield from (Progress.model_validate(event) for event in events)
        yield Done.model_validate(done)


def test_another_method_makes_another_adapter_in_another_folder(
    request_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "EditProcess", Here)
    arguments = ["unlearn", str(request_file), "--method", "npo", "--store", "store"]
    result = runner.invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "method npo instead of grad_diff: sticker-npo" in result.output
    assert "kept of the request's parameters: rank, lora_alpha, batch_forget, " in result.output
    assert "dropped, as npo has none of them: gamma" in result.output
    made = read_request(request_file.parent / "runs/edits/sticker-npo/request.yaml")
    assert (made.method, made.name, made.parameters.rank) == ("npo", "sticker-npo", 4)
    (entry,) = AdapterStore(Path("store")).manifests()
    assert (entry.name, entry.core.method) == ("sticker-npo", "npo")
    # Progress: stage and round, step of all steps, losses, time left.
    lines = [line for line in result.output.splitlines() if line.startswith("edit ") and "/3 steps" in line]
    assert any(
        all(part in line for part in ("joint 1", "forget ", "retain ", "ETA ", " MB")) for line in lines
    )


def test_a_step_is_shown_with_stage_losses_and_time_left() -> None:
    seen: list[tuple[int, int, str]] = []
    event = Progress(
        stage="language", round=2, step=50, total_steps=480, losses={"forget": 0.5, "retain": 1.25}, eta_s=93.4,
        peak_mb=812.6,
    )  # fmt: skip
    _report(lambda *shown: seen.append(shown), event)
    _report(lambda *shown: seen.append(shown), event.model_copy(update={"eta_s": -1.0}))
    assert seen[0] == (50, 480, "language 2  forget 0.500 retain 1.250  ETA 93 s  813 MB")
    assert "ETA unknown" in seen[1][2]
    ranking = event.model_copy(update={"losses": {}, "doing": "ranking layers, language: 3 of 32"})
    _report(lambda *shown: seen.append(shown), ranking)
    assert seen[2][2] == "language 2  ranking layers, language: 3 of 32  ETA 93 s  813 MB"
    _report(lambda *shown: seen.append(shown), Progress(doing="reading the bags"))
    assert seen[3] == (0, 0, "reading the bags  ETA unknown  0 MB")


@pytest.mark.parametrize(
    ("change", "arguments", "code", "remedy"),
    [
        (("", ""), ["--method", "sam"], 300, "did you mean sam_npo"),
        (("method: grad_diff", "method: grad_dif"), [], 300, "did you mean grad_diff"),
        (("steps: 3", "stepz: 3"), [], 300, "did you mean steps"),
        (("base: ", "base: /work/../tmp/no/"), [], 207, "correct base in the request"),
    ],
)
def test_bad_requests_are_refused_before_a_process_is_started(
    request_file: Path, change: tuple[str, str], arguments: list[str], code: int, remedy: str
) -> None:
    request_file.write_text(request_file.read_text().replace(*change))
    result = runner.invoke(app, ["unlearn", str(request_file), *arguments])
    assert isinstance(result.exception, VlaForgetError)
    assert int(result.exception.code) == code
    assert remedy in result.exception.remedy
    assert not (request_file.parent / "runs").exists()


def test_a_contradiction_in_the_request_is_refused_too(request_file: Path) -> None:
    request_file.write_text(request_file.read_text() + "name2: x\n")
    result = runner.invoke(app, ["unlearn", str(request_file)])
    assert isinstance(result.exception, UnlearningError)
    assert "did you mean name" in result.exception.remedy
