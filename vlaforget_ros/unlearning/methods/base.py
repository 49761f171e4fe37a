"""What a method is: losses, a mask, gradient surgery, a schedule; everything else is the engine's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

from torch import Tensor

from vlaforget_ros.unlearning import pcgrad
from vlaforget_ros.unlearning.losses import fine_tuning_terms
from vlaforget_ros.unlearning.parameters import JointParameters, MethodParameters
from vlaforget_ros.unlearning.pcgrad import Surgery
from vlaforget_ros.unlearning.records import Check
from vlaforget_ros.unlearning.rounds import RoundPlan, Runner
from vlaforget_ros.unlearning.steps import Gradient, Step
from vlaforget_ros.unlearning.views import Terms, Views
from vlaforget_ros.unlearning.workbench import Workbench

P = TypeVar("P", bound=MethodParameters)
J = TypeVar("J", bound=JointParameters)


class Method(ABC, Generic[P]):
    """One way to unlearn.

    Args:
        parameters: of the request.

    Attributes:
        key: its name in requests and tables.
        title: what it does, in a line of a table.
        source: where its formula is from.
        Parameters: what a request may set.
        dense: whether it works on single weights; its adapter then has one identity factor in each layer.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    Parameters: ClassVar[type[MethodParameters]]
    dense: ClassVar[bool] = False

    def __init__(self, parameters: P) -> None:
        self.parameters = parameters

    @property
    def rank(self) -> int:
        """LoRA rank of its adapter (of an adapter that is not dense)."""
        return self.parameters.rank

    def forget(self, views: Views) -> Terms:
        """Weighted terms of the forget group, to be minimised; none by default."""
        return {}

    def retain(self, views: Views) -> Terms:
        """Weighted terms of the retain group: fine-tuning on D_r, D_b and D_c by default."""
        return fine_tuning_terms(views, self.parameters)

    def mask(self, bench: Workbench, modules: Sequence[str]) -> list[Tensor] | None:
        """1 where an element of a factor may change, one tensor for each; None (the default): everywhere."""
        return None

    def surgery(self, forget: Gradient, retain: Gradient) -> Surgery:
        """How the two groups' gradients are put together: added, by default."""
        return pcgrad.combine(forget, retain, enabled=False)

    def gradients(self, step: Step) -> Surgery:
        """Gradients of one step."""
        retain = step.gradient(self.retain)
        return self.surgery(step.gradient(self.forget), retain)

    @abstractmethod
    def plan(self) -> list[tuple[str, int, int]]:
        """(stage, steps of a round, most rounds) in the order in which they are run."""

    @abstractmethod
    def schedule(self, runner: Runner, before: Check) -> Check:
        """Run the rounds; returns what holds afterwards."""


class JointMethod(Method[J]):
    """A method that trains all layers of its components in one round, and keeps what comes out.

    Subclasses give losses, and where they need to a mask, a surgery, a start or a finish.
    """

    STAGE: ClassVar[str] = "joint"

    def plan(self) -> list[tuple[str, int, int]]:
        """One round."""
        return [(self.STAGE, self.parameters.steps, 1)]

    def layers(self, bench: Workbench) -> list[str]:
        """What is edited: every editable layer of the components."""
        return [layer.name for part in self.parameters.components for layer in bench.layers[part]]

    def start(self, bench: Workbench, modules: Sequence[str]) -> None:
        """Called on fresh factors before the first step."""

    def finish(self, bench: Workbench, modules: Sequence[str]) -> None:
        """Called after the last step, before the round is measured."""

    def state(self) -> dict[str, float]:
        """Numbers to be remembered between steps."""
        return {}

    def set_state(self, state: dict[str, float]) -> None:
        """Give :meth:`state` back."""

    def schedule(self, runner: Runner, before: Check) -> Check:
        """Run the round, unless it is there already."""
        (_, steps, _), *_ = self.plan()
        done = runner.finished(self.STAGE, 1) or runner.run(
            RoundPlan(
                stage=self.STAGE,
                number=1,
                layers=self.layers(runner.bench),
                steps=steps,
                gradients=self.gradients,
                masks=self.mask,
                start=self.start,
                finish=self.finish,
                state=self.state,
                set_state=self.set_state,
            ),
            before,
        )
        return Check.parse(done.holds)
