"""The model that the policy nodes of one process serve: loaded for the first arm, freed after the last."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from vlaforget_ros.errors import ErrorCode, PolicyError, VlaForgetError
from vlaforget_ros.nodes.policy_parameters import serving_engine
from vlaforget_ros.paths import checkpoint_directory
from vlaforget_ros.policy.engine import InferenceEngine
from vlaforget_ros.policy.lender import Lender, is_copied
from vlaforget_ros.policy.memory import settle, unsettle
from vlaforget_ros.policy.policy import VlaPolicy

# What a model is loaded and served with; arms that share it say the same.
_SAME = (
    *("checkpoint", "device", "weights", "share_weights", "compile", "checked_tokens", "torch_threads"),
    *("merge_adapters", "arms_wait_ms"),
    *("resident_limit", "resident_mb", "probe_rounds", "probe_slowdown", "probe_instructions"),
)


class ModelShare:
    """Hands out engines on one model, and lends its weights to edits. Any thread may call it.

    Args:
        told: gets a line for a person about the lending.
    """

    def __init__(self, told: Callable[[str], object] = lambda _: None) -> None:
        self.told = told
        self._lender: Lender | None = None
        self._lock = threading.Lock()
        self._engines: list[InferenceEngine] = []
        self._policy: VlaPolicy | None = None
        self._values: Mapping[str, Any] = {}

    def take(self, values: Mapping[str, Any]) -> tuple[VlaPolicy, InferenceEngine]:
        """The policy, and an engine of its own for one arm.

        Args:
            values: checked parameters of the arm's node.

        Raises:
            AdapterError: 112 for a trust policy that cannot be used.
            PolicyError: 207 for a checkpoint that cannot be used, 208 for parameters of the model that differ from
                those of the arms that it serves already.
        """
        with self._lock:
            beside = self._engines[0] if self._engines else None
            if self._policy is None or beside is None:
                policy, self._values = _loaded(values), values
                self._stop_lending()
                # Before adapters find their places: on the CPU the weights are moved.
                self._lender = self._lending(policy, values)
            else:
                policy = self._policy
            differs = next((name for name in _SAME if values[name] != self._values[name]), None)
            if differs is not None:
                raise PolicyError(
                    ErrorCode.POLICY_BAD_PARAMETER,
                    f"arms that share a model have one {differs}",
                    value=values[differs],
                    limit=repr(self._values[differs]),
                    remedy="set it alike for all arms, or run a policy node for each of them",
                )
            try:
                engine = serving_engine(policy, values, beside)
            except VlaForgetError:
                if beside is None:
                    self._stop_lending()
                raise
            self._policy = policy
            self._engines.append(engine)
            return policy, engine

    def give_back(self, engine: InferenceEngine) -> None:
        """Close an arm's engine; the others serve on."""
        with self._lock:
            self._engines.remove(engine)
            unsettle()
            engine.close()
            if self._engines:
                settle()
            else:
                self._stop_lending()
                self._policy = None

    def _lending(self, policy: VlaPolicy, values: Mapping[str, Any]) -> Lender | None:
        """A lender where somebody can use it; a policy that cannot lend serves all the same."""
        if not values["share_weights"] or not is_copied(
            checkpoint_directory(values["checkpoint"]), values["device"]
        ):
            return None
        try:
            lender = Lender(policy)
        except PolicyError as error:
            self.told(str(error))
            return None
        self.told(f"lending {lender.bytes / 1e6:.0f} MB of base weights to edits on this host")
        return lender

    def _stop_lending(self) -> None:
        if self._lender is not None:
            self._lender.close()
            self._lender = None


def _loaded(values: Mapping[str, Any]) -> VlaPolicy:
    import torch

    torch.set_num_threads(values["torch_threads"])
    return VlaPolicy.load(
        checkpoint_directory(values["checkpoint"]),
        values["device"],
        checked_tokens=values["checked_tokens"],
        weights=values["weights"],
    )
