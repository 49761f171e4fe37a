"""OpenVLA-OFT as a policy: chunks of continuous actions, several cameras, the robot's state."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy.oft import END_ID, OpenVlaOft
from vlaforget_ros.policy.policy import Batch, Prediction, VlaPolicy


class OftPolicy(VlaPolicy):
    """As :class:`VlaPolicy`; one inference decides a chunk, and there is nothing that could be no action token."""

    model: OpenVlaOft

    def log_probs(self, logits: Tensor) -> Tensor:
        """(N, A, B) log-probabilities of the bins: the chunk read as a Laplace density."""
        return logits.log_softmax(dim=-1)

    def action_logits(self, batch: Batch) -> Tensor:
        """Logits (N, A, B) of the bins of each number of the chunk; the recorded actions are not looked at."""
        embeds = self.model.embed(self.model.look(batch.pixel_values), batch.input_ids)
        return self.model.laplace(self.model.chunk(embeds, batch.action_positions))

    def _network_function(self, checked_tokens: int) -> Callable[..., Tensor]:
        return self.model.act

    def _tail(self, tokens: np.ndarray) -> list[int]:
        return [*[self._pad_id] * len(tokens), END_ID]

    def _scaled_states(self, states: np.ndarray | None) -> Tensor | None:
        return None if states is None else self.model.scaled(states)

    def _prediction(self, values: np.ndarray) -> Prediction:
        action = self.codec.robot_units(values.astype(np.float64))
        try:
            return Prediction(action, tuple(int(token) for token in self.codec.encode(action)))
        except PolicyError as error:
            if error.code != ErrorCode.POLICY_NON_FINITE_ACTION:
                raise
            return Prediction(self.hold_action(), (), int(error.code))
