"""A model that serves one or several arms: its adapters' places, the thread that owns it, and what it is asked."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from itertools import groupby

from vlaforget_ros.adapters.lora import LoraWeights
from vlaforget_ros.errors import PolicyError
from vlaforget_ros.policy.answering import answer, answer_together
from vlaforget_ros.policy.arm import Arm, Ask
from vlaforget_ros.policy.compiled import Compiled, refuse_rounded
from vlaforget_ros.policy.desk import Desk
from vlaforget_ros.policy.memory import free_cached_memory, is_out_of_memory, out_of_memory
from vlaforget_ros.policy.merged import slots_for
from vlaforget_ros.policy.owner import OwnerThread
from vlaforget_ros.policy.probe import Probe
from vlaforget_ros.policy.serving import AdapterSource, Inference, ServedPolicy
from vlaforget_ros.policy.slots import StagedAdapter

_log = logging.getLogger(__name__)


class ServedModel:
    """What the engines of all arms share.

    Args:
        policy: its model belongs to the owner thread from now on.
        merge: merge adapters into copies of the layers that they touch.
        probe: tries an adapter before its first swap; None: none is tried.
        wait_s: how long an inference waits for those of other arms [s].
        clock: steady clock [s].
        compiled: compile the policy's hot functions now; see :class:`Compiled`.

    Raises:
        PolicyError: 208 where adapters cannot be merged, or the policy cannot be compiled; 204 out of memory.
    """

    def __init__(
        self,
        policy: ServedPolicy,
        merge: bool = False,
        probe: Probe | None = None,
        wait_s: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
        compiled: bool = False,
    ) -> None:
        self.policy, self.clock = policy, clock
        if compiled:
            refuse_rounded(policy.model)
        self.slots = slots_for(policy.model, merge, compiled)
        self.desk = Desk(wait_s)
        self.changes = threading.Lock()
        """Held while an adapter is being staged: the memory of two at once would be nobody's."""
        self._probe = probe
        self._shown: list[StagedAdapter | None] = [None]
        self._arms: set[Arm] = set()
        self.owner = OwnerThread("inference")
        self.compiled: Compiled | None = self._compile() if compiled else None

    def join(self, arm: Arm) -> None:
        """Serve one more arm."""
        self._arms.add(arm)

    def leave(self, arm: Arm) -> None:
        """Serve an arm no more; after the last one the model is the base model and its thread has ended."""
        if arm not in self._arms:
            return
        self._arms.remove(arm)
        self.desk.ended(arm)
        if self._arms:
            self.owner.submit(arm.residents.leave).result()
            return
        self.owner.close()
        self.slots.remove()

    def _compile(self) -> Compiled:
        # In the thread that will serve: what is compiled holds for the settings of its thread.
        try:
            return self.owner.submit(lambda: Compiled(self.policy, self.slots)).result()
        except PolicyError:
            self.owner.close()
            self.slots.remove()
            raise

    # --- in the owner thread

    def show(self, *staged: StagedAdapter | None) -> None:
        """Give each observation of the next forward pass its adapter; one stands for all."""
        if len(staged) != len(self._shown) or any(
            a is not b for a, b in zip(staged, self._shown, strict=True)
        ):
            self.slots.activate_rows(staged)
            self._shown = list(staged)

    def serve(self, ask: Ask) -> Inference:
        """The answer to an ask; what other arms wait for is answered with it."""
        if ask.answer is None:
            self._answer(self.desk.take(ask))
        if ask.answer is None:
            raise RuntimeError("an inference was not answered")
        return ask.answer

    def _answer(self, asks: Sequence[Ask]) -> None:
        start = self.clock()
        asked: list[Ask] = []
        for ask in asks:
            ask.answer = ask.arm.left_over(ask)
            if ask.answer is None:
                asked.append(ask)
        # Neighbours with one adapter share the work of its deltas.
        asked.sort(key=lambda ask: ask.arm.residents.active)
        if self.slots.mixes:
            self._ask(asked, start)
            return
        for _, group in groupby(asked, key=lambda ask: ask.arm.residents.active):
            self._ask(list(group), start)

    def _ask(self, asks: Sequence[Ask], start: float) -> None:
        """Answer asks in one batch."""
        if not asks:
            return
        digests = [ask.arm.residents.active for ask in asks]
        staged = [ask.arm.residents.serving for ask in asks]
        observations = [ask.observation for ask in asks]
        if len(asks) == 1:
            self.show(staged[0])
            answers = [answer(self.policy, observations[0])]
        else:
            answers = answer_together(
                self.policy, observations, lambda rows: self.show(*(staged[row] for row in rows))
            )
        elapsed_ms = (self.clock() - start) * 1e3
        for ask, digest, (prediction, message) in zip(asks, digests, answers, strict=True):
            ask.answer = ask.arm.decided(ask, digest, prediction, message, elapsed_ms)

    # --- in the caller's thread

    def staged(self, source: AdapterSource, arm: Arm, digest: str) -> tuple[StagedAdapter, float]:
        """Read, check, copy and try an adapter beside the running model; hold ``changes``.

        Args:
            source: has it.
            arm: that wants it.
            digest: of it.

        Returns:
            the adapter, and how long that took [ms]; 0 where it was in memory.

        Raises:
            AdapterError, PolicyError: as :meth:`InferenceEngine.swap`.
        """
        resident = arm.residents.get(digest)
        if resident is not None:
            source.check_revoked(digest)
            return resident, 0.0
        start = self.clock()
        weights = source.load(digest, base_digest=self.policy.base_digest)
        try:
            staged = self.slots.stage(weights)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            staged = self._staged_with_less(arm, weights, error)
        if self._probe is not None:
            self._probe.check(staged, arm.residents.serving, arm.seen)
        return staged, (self.clock() - start) * 1e3

    def _staged_with_less(self, arm: Arm, weights: LoraWeights, error: Exception) -> StagedAdapter:
        """Second and last try, after dropping adapters that are neither active nor previous."""
        dropped = arm.residents.drop_idle()
        _log.warning("out of memory while staging %s; dropped %d idle adapters", weights.digest[:12], dropped)
        free_cached_memory()
        try:
            return self.slots.stage(weights)
        except Exception as second:
            # A coded one says itself what is missing.
            if isinstance(second, PolicyError) or not is_out_of_memory(second):
                raise
            raise out_of_memory(f"staging {weights.bytes / 1e6:.1f} MB") from error
