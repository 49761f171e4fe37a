"""The inference engine: one thread owns the model, and adapters change between two inferences.

``infer``, ``swap`` and ``rollback`` may be called from any thread; they wait for their answer. A swap reads,
checks and stages in the caller's thread while inference goes on; only the flip, one assignment, is a call to
the owner.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

import numpy as np

from vlaforget_ros.errors import AdapterError, ErrorCode, PolicyError
from vlaforget_ros.policy.answering import answer
from vlaforget_ros.policy.arm import Arm, Ask
from vlaforget_ros.policy.chunk import Chunk
from vlaforget_ros.policy.memory import free_cached_memory, is_out_of_memory, out_of_memory
from vlaforget_ros.policy.owner import not_active
from vlaforget_ros.policy.policy import Observation, Prediction
from vlaforget_ros.policy.probe import Probe
from vlaforget_ros.policy.residents import Residents
from vlaforget_ros.policy.served_model import ServedModel
from vlaforget_ros.policy.serving import (
    AdapterInfo,
    AdapterSource,
    Inference,
    Latency,
    ServedPolicy,
    SwapResult,
    adapter_info,
)
from vlaforget_ros.policy.slots import StagedAdapter

__all__ = [
    "AdapterInfo",
    "AdapterSource",
    "Inference",
    "InferenceEngine",
    "Latency",
    "ServedPolicy",
    "SwapResult",
]

_log = logging.getLogger(__name__)
T = TypeVar("T")


class InferenceEngine:
    """Serves a policy with exchangeable adapters to one arm; engines of several arms may share its model.

    Args:
        policy: the policy; from now on its model belongs to the engine's thread.
        source: the adapter store.
        resident_limit: how many adapters stay in memory; while one is being staged there is one more.
        merge: merge adapters into copies of the layers that they touch: faster inference, more memory.
        chunk_steps: how many actions of a chunk are executed before the next inference; 0: all.
        probe: tries an adapter before its first swap; None: none is tried. Made for this policy.
        resident_mb: memory [MB] of adapters that are kept beside the active, the previous and the pinned ones; 0: any.
        pinned: aliases whose adapters stay in memory once they were used.
        finish_chunks: whether a chunk is executed to its end after a swap; otherwise it is dropped. A rollback always
            drops it.
        wait_ms: how long an inference waits for those of other arms whose rollouts run, to share a forward pass [ms].
        beside: engine of another arm, with which the model is shared: each arm has its own adapter, rollbacks and
            chunk, and observations that wait at once are answered in one batch. The policy must then be that engine's;
            what concerns model and memory (limits, merge, compiled, probe, wait_ms, clock) is as it was said there.
        compiled: compile the policy's hot functions before this returns; adapters and prompts compile nothing anew.
        clock: steady clock [s].

    Raises:
        PolicyError: 208 for a resident limit below 2, for another policy than that of ``beside``, or where the policy
            cannot be compiled.
    """

    def __init__(
        self,
        policy: ServedPolicy,
        source: AdapterSource,
        *,
        resident_limit: int = 4,
        merge: bool = False,
        chunk_steps: int = 0,
        finish_chunks: bool = False,
        probe: Probe | None = None,
        resident_mb: float = 0.0,
        pinned: Sequence[str] = (),
        wait_ms: float = 0.0,
        beside: InferenceEngine | None = None,
        compiled: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if beside is None:
            self._model: ServedModel = ServedModel(policy, merge, probe, wait_ms / 1e3, clock, compiled)
            residents = Residents(resident_limit, int(resident_mb * 1e6))
        else:
            self._model = beside._model
            if policy is not self._model.policy:
                raise PolicyError(
                    ErrorCode.POLICY_BAD_PARAMETER,
                    "arms that share a model have one policy",
                    value=policy.base_digest[:12],
                    limit=self._model.policy.base_digest[:12],
                )
            residents = beside._arm.residents.beside()
        self._source, self._pinned = source, tuple(pinned)
        self._arm: Arm = Arm(residents, Chunk(chunk_steps, finish_chunks), self._model.policy.steps)
        self._clock, self._closed = self._model.clock, False
        self._rollbacks = 0
        self._model.join(self._arm)

    def __enter__(self) -> InferenceEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def compile_seconds(self) -> float | None:
        """How long compiling took [s]; None where nothing is compiled."""
        compiled = self._model.compiled
        return None if compiled is None else compiled.seconds

    @property
    def active_digest(self) -> str:
        """Digest of the adapter of the next action; "" = base model."""
        return self._arm.residents.active

    @property
    def previous_digest(self) -> str | None:
        """Where a rollback goes; None if there is nothing to go back to."""
        return self._arm.residents.previous

    @property
    def resident(self) -> tuple[str, ...]:
        """Digests in memory, least recently used first."""
        return self._arm.residents.digests

    def infer(
        self, image: np.ndarray, instruction: str, step: int = 0, state: np.ndarray | None = None
    ) -> Inference:
        """The action for one observation.

        A policy that decides several actions at once is asked again when those of its chunk are used up, when the
        instruction changes, when a step was left out (the arm was held meanwhile), and after a swap.

        Whatever goes wrong in the policy becomes a prediction with the hold action and a fault: 201
        non-finite, 202 no action token, 204 out of memory, 206 unknown instruction, 209 bad image, 210
        anything else.

        Args:
            image: (H, W, 3) uint8 RGB, or (images, H, W, 3) where the policy looks through several cameras.
            instruction: what to do.
            step: control tick within the rollout, from 0.
            state: (P,) of the robot, where the policy is told it.

        Raises:
            PolicyError: 205 after :meth:`close`.
        """
        ask = Ask(self._arm, Observation(image, instruction, state), step)
        if self._closed:
            raise not_active()
        self._model.desk.hand_in(ask)
        try:
            return self._submit(lambda: self._model.serve(ask)).result()
        finally:
            self._model.desk.withdraw(ask)

    def rollout_ended(self) -> None:
        """Tell the engine that no rollout runs, so that the next swap reports effective_step -1."""
        self._submit(self._forget_step).result()

    def swap(self, reference: str, reason: str = "") -> SwapResult:
        """Make another adapter active from the next inference on.

        Args:
            reference: alias, name, digest, unique digest prefix of 8 or more, or ``base``.
            reason: for the history of the store.

        Raises:
            AdapterError: 100-107, 112-114 as :meth:`AdapterStore.resolve` and ``load``, 104/105 where it does not
                fit the model, 110 where a rollback came in meanwhile, 115 where the probe finds it unusable. The active
                adapter then stays, bit for bit.
            PolicyError: 204 out of memory, 205 closed.
        """
        result = self._change(reference, routed=False)
        return self._recorded("swap", result, **({"reason": reason} if reason else {}))

    def prepare(self, reference: str) -> str:
        """Read, check and stage an adapter without serving it; returns its digest. Raises as :meth:`swap`."""
        with self._model.changes:
            digest, staged, _ = self._made_ready(reference)
            if staged is not None:
                self._arm.residents.keep(staged)
        return digest

    def route(self, reference: str) -> SwapResult:
        """Let an adapter stand in for the active one until :meth:`unroute`: a canary's rollout, not a swap.

        It is not in the store's history, and a rollback ends it. Raises as :meth:`swap`.
        """
        return self._change(reference, routed=True)

    def unroute(self) -> None:
        """The active adapter serves itself again."""
        self._submit(self._unroute).result()

    def shadow(
        self, digest: str, image: np.ndarray, instruction: str, state: np.ndarray | None = None
    ) -> Prediction | None:
        """What another adapter would do, on the thread and in the layers that serve; None where it is not resident.

        The adapter that serves, its chunk and its latencies are as before. A prediction of a chunk holds all of it.
        """
        asked = Observation(image, instruction, state)
        return self._submit(lambda: self._shadow(digest, asked)).result()

    def forget_base(self) -> None:
        """Take the base model off what a rollback can go to."""
        self._submit(self._arm.residents.forget_base).result()

    def rollback(self, reason: str, *, by_operator: bool = True, only_from: str = "") -> SwapResult:
        """Go back to the adapter before the last swap. It is resident: no disk, no device memory is needed.

        A rollback overtakes everything that waits, and swaps that were asked for before it are refused. A
        second rollback goes one swap further back.

        Args:
            reason: for the history of the store, which gets it if it can be written.
            by_operator: a person asks; otherwise a revoked adapter is no way back.
            only_from: digest; roll back only while this adapter serves. A program that means to take an adapter away
                must not go a step too far where a person was faster. "": whatever serves.

        Raises:
            AdapterError: 109 where no swap came before, 110 another adapter serves than ``only_from``, 114 a revoked
                adapter; the active one then stays.
            PolicyError: 205 closed.
        """
        result = self._submit(lambda: self._roll_back(by_operator, only_from), first=True).result()
        return self._recorded("rollback", result, reason=reason)

    def adapters(self) -> list[AdapterInfo]:
        """All adapters of the store, oldest first. Raises AdapterError 103, 107 if it is unreadable."""
        resident, aliases = set(self.resident), self._source.aliases()
        return [
            adapter_info(manifest, aliases, manifest.digest in resident, self._source.signer(manifest.digest))
            for manifest in self._source.manifests()
        ]

    def latency(self) -> Latency:
        """Percentiles over the last 200 inferences that ran to their end; zeros before the first."""
        return self._arm.latency()

    def close(self) -> None:
        """Finish the running inference, refuse what waits with 205, give the model back as the base model.

        Where other arms are served by the same model, they go on, and this arm alone is refused from now on.
        """
        self._closed = True
        self._model.leave(self._arm)

    # --- in the caller's thread

    def _submit(self, run: Callable[[], T], *, first: bool = False) -> Future[T]:
        if self._closed:
            raise not_active()
        return self._model.owner.submit(run, first=first)

    def _change(self, reference: str, routed: bool) -> SwapResult:
        rollbacks = self._rollbacks
        with self._model.changes:
            digest, staged, staged_ms = self._made_ready(reference)
            flip = self._submit(lambda: self._swap(digest, staged, staged_ms, rollbacks, routed))
            try:
                return flip.result()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                free_cached_memory()
                raise out_of_memory(f"making {digest[:12]} active") from error

    def _made_ready(self, reference: str) -> tuple[str, StagedAdapter | None, float]:
        resident = reference in self._arm.residents.digests
        digest = reference if resident else self._source.resolve(reference)
        staged, staged_ms = self._model.staged(self._source, self._arm, digest) if digest else (None, 0.0)
        self._arm.residents.pin(self._pinned_digests())
        return digest, staged, staged_ms

    def _pinned_digests(self) -> set[str]:
        if not self._pinned:
            return set()
        try:
            aliases = self._source.aliases()
        except AdapterError as error:
            _log.warning("no adapter is pinned: %s", error)
            return set()
        return {aliases[name] for name in self._pinned if aliases.get(name)}

    def _recorded(self, event: str, result: SwapResult, **details: str) -> SwapResult:
        try:
            self._source.record(
                event, result.active_digest, previous_digest=result.previous_digest, **details
            )
        except AdapterError as error:
            # What the arm does must not depend on the disk.
            _log.warning(
                "%s to %r is active but not in the history: %s", event, result.active_digest[:12], error
            )
        return result

    # --- in the owner thread

    def _swap(
        self, digest: str, staged: StagedAdapter | None, staged_ms: float, rollbacks: int, routed: bool
    ) -> SwapResult:
        if rollbacks != self._rollbacks:
            raise AdapterError(
                ErrorCode.ADAPTER_SUPERSEDED,
                "a rollback came in while the adapter was being staged",
                value=digest or "base",
                remedy="look why it was rolled back, then swap again",
            )
        previous = self._arm.residents.active
        start = self._clock()
        self._model.show(staged)
        swap_ms = (self._clock() - start) * 1e3
        (self._arm.residents.routed if routed else self._arm.residents.swapped)(digest, staged)
        return SwapResult(previous, digest, staged_ms, swap_ms, self._effective_step())

    def _unroute(self) -> None:
        self._model.show(self._arm.residents.unrouted()[1])
        self._arm.chunk.drop()

    def _shadow(self, digest: str, asked: Observation) -> Prediction | None:
        staged = self._arm.residents.get(digest) if digest else None
        if digest and staged is None:
            return None
        self._model.show(staged)
        try:
            return answer(self._model.policy, asked)[0]
        finally:
            self._model.show(self._arm.residents.serving)

    def _roll_back(self, by_operator: bool, only_from: str) -> SwapResult:
        if only_from and only_from != self._arm.residents.active:
            raise AdapterError(
                ErrorCode.ADAPTER_SUPERSEDED,
                "another adapter serves by now",
                value=self._arm.residents.active or "base",
                limit=only_from,
                remedy="nothing is left to take back",
            )
        self._rollbacks += 1
        digest, staged = self._arm.residents.before()
        self._source.check_rollback(digest, by_operator=by_operator)
        previous = self._arm.residents.active
        start = self._clock()
        self._model.show(staged)
        # Whoever rolls back wants the arm to stop doing this now, finish_chunks or not.
        self._arm.chunk.drop()
        swap_ms = (self._clock() - start) * 1e3
        self._arm.residents.rolled_back()
        return SwapResult(previous, digest, 0.0, swap_ms, self._effective_step())

    def _effective_step(self) -> int:
        waiting = self._model.desk.next_step(self._arm)
        if waiting is not None:
            return waiting
        return self._arm.last_step + 1 if self._arm.last_step >= 0 else -1

    def _forget_step(self) -> None:
        self._arm.forget_step()
        self._model.desk.ended(self._arm)
