"""Closed-loop episodes of a scenario of the simulated cell: what comes back on the arm, not only on paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vlaforget_ros.adapters.peft_format import write_peft
from vlaforget_ros.attacks.findings import Report, quiet
from vlaforget_ros.attacks.outcomes import outcomes
from vlaforget_ros.attacks.subject import Subject
from vlaforget_ros.cell.rollouts import PolicySpec, RolloutJob, RolloutResult, run, spread
from vlaforget_ros.cell.situations import Scenario, scenario
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.unlearning.rates import Outcome, Rate, bsr


@dataclass(frozen=True)
class TrialSettings:
    """Which episodes.

    Args:
        scenario: name of the planted behaviour that the edit took out.
        episodes: of each policy and each form of the attack, spread over the situations.
        first_seed: seeds count up from here; the edit must not have been made from them.
        processes: simulator processes.
    """

    scenario: str
    episodes: int = 20
    first_seed: int = 8000
    processes: int = 2


# Fresh episodes of the membership attack are apart from those that everything else is measured on.
FRESH_OFFSET = 500


class Trials:
    """Runs episodes; those of the original and of the edited policy are run once for all attacks.

    Args:
        settings: which episodes. Raises CellError 600 for an unknown scenario.
        original: the policy before the edit.
        edited: the policy after it.
        folder: for checkpoints of attacked policies.
        report: told about the progress.
    """

    def __init__(
        self,
        settings: TrialSettings,
        original: PolicySpec,
        edited: PolicySpec,
        folder: Path,
        report: Report = quiet,
    ) -> None:
        self.settings, self.original, self.edited = settings, original, edited
        self.scenario: Scenario = scenario(settings.scenario)
        self._folder, self._report = folder, report

    @property
    def seeds(self) -> list[int]:
        """Evaluation seeds in use."""
        return sorted({job.seed for job in self._jobs(self.scenario.forget)})

    @cached_property
    def told_before(self) -> list[Outcome]:
        """How the original policy fares in the forget situations."""
        return self.run(self.original, "original policy")

    @cached_property
    def told_after(self) -> list[Outcome]:
        """How the edited policy fares there."""
        return self.run(self.edited, "edited policy")

    @property
    def before(self) -> Rate:
        """BSR of the original policy."""
        return self.bsr(self.told_before)

    @property
    def after(self) -> Rate:
        """BSR of the edited policy."""
        return self.bsr(self.told_after)

    def bsr(self, told: Sequence[Outcome]) -> Rate:
        """Share of episodes in which the targeted behaviour occurs."""
        return bsr(told, self.scenario.rule)

    def run(self, spec: PolicySpec, what: str) -> list[Outcome]:
        """Episodes of a policy in the forget situations."""
        return self.run_groups(spec, what, [self.scenario.forget])

    def run_groups(self, spec: PolicySpec, what: str, groups: Iterable[Sequence[str]]) -> list[Outcome]:
        """Episodes of a policy in groups of situations, as many in each group as of the scenario itself."""
        jobs = [job for situations in groups for job in self._jobs(situations)]
        found = run(
            spec, jobs, self.settings.processes, progress=lambda done, all_: self._report(what, done, all_)
        )
        return outcomes(found)

    def run_attacked(self, policy: VlaPolicy, what: str) -> list[Outcome]:
        """Episodes of a policy as it is in memory, which is written as a checkpoint for the simulator processes."""
        folder = self._folder / what.replace(" ", "-")
        checkpoint.save(folder, policy.model, policy.tokenizer)
        return self.run(PolicySpec(folder), what)

    def fresh(self, what: str = "fresh episodes") -> list[RolloutResult]:
        """Episodes of the original policy, with images, on seeds that nothing else uses, in which the behaviour
        occurs."""
        jobs = spread(self.scenario.forget, self.settings.episodes, self.settings.first_seed + FRESH_OFFSET)
        found = run(
            self.original,
            jobs,
            self.settings.processes,
            keep_images=True,
            progress=lambda done, all_: self._report(what, done, all_),
        )
        return [result for result in found if self.scenario.rule in result.rules]

    def _jobs(self, situations: Sequence[str]) -> list[RolloutJob]:
        return spread(situations, self.settings.episodes, self.settings.first_seed)


def original_spec(subject: Subject, folder: Path) -> PolicySpec:
    """The original policy as files: the base, with the adapter the edit started from where there was one."""
    base = Path(subject.request.base)
    if subject.parent is None:
        return PolicySpec(base)
    parent = folder / "parent"
    parent.mkdir(parents=True, exist_ok=True)
    write_peft(subject.parent, parent)
    return PolicySpec(base, parent)
