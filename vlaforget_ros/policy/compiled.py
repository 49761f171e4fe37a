"""The hot functions of a policy compiled with torch.compile: fewer kernels, each of which does more.

Compiled are what is seen, the first token, and a later one (OpenVLA-OFT: its one pass). They are compiled once, before
the policy serves, and never again: lengths of prompts, positions and ranks of adapters are sizes that they take as they
come, and weights and factors are their inputs. That this is so is tried out before the policy serves. What they cannot
take after all, such as a batch of several arms, runs uncompiled: no tick ever waits for a compiler.

On a GPU no graph of the compiler's own is recorded: :mod:`vlaforget_ros.policy.graphs` records all of an inference.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy.memory import is_out_of_memory, out_of_memory
from vlaforget_ros.policy.slots import AdapterSlots
from vlaforget_ros.policy.stacked import StackedParts, StackedSlots
from vlaforget_ros.policy.weight_only import is_rounded

_log = logging.getLogger(__name__)
Stance = Literal["force_eager", "default", "fail_on_recompile", "eager_on_recompile"]

# Any two of each: what is compiled for one must take the other.
_LENGTHS, _RANKS = (17, 24), (4, 9)
# One for the base model, one for adapters, and as many where several tokens are looked for in the whole vocabulary.
_MOST = 8
_REMEDY = (
    "set compile to false; the inductor of torch needs a C++ compiler (g++) in PATH, and triton on a GPU"
)


class Compiled:
    """Compiles a policy's functions. Make it in the thread that will serve, with the slots that will serve.

    One at a time in a process: whether something may be compiled is said to torch for all threads.

    Args:
        policy: :class:`~vlaforget_ros.policy.policy.VlaPolicy`; from now on it calls the compiled functions.
        slots: of its model, no adapter active.
        backend: of torch.compile.

    Raises:
        PolicyError: 208 where the policy cannot be compiled here, or would be compiled anew for another adapter or
            prompt; 204 out of memory. The policy is as it was.
    """

    def __init__(self, policy: Any, slots: AdapterSlots, backend: str = "inductor") -> None:
        refuse_rounded(policy.model)
        self.stance: Stance = "default"
        self._backend, self._marking = backend, False
        began = time.perf_counter()
        _log.info("compiling %s: this takes from seconds to minutes", policy.config.name)
        try:
            policy.rewrite(self._wrapped)
            # Factors are reached through the hooks of modules: by default their sizes would be taken for fixed ones.
            with torch._dynamo.config.patch(force_nn_module_property_static_shapes=False):
                self._rehearse(policy, slots)
        except Exception as error:
            self.stance = "force_eager"
            policy.rewrite(None)
            slots.activate(None)
            if is_out_of_memory(error):
                raise out_of_memory("compiling the policy") from error
            raise _failed(error) from error
        self.seconds: float = time.perf_counter() - began
        """Compiling took [s]."""
        self.stance = "eager_on_recompile"
        _log.info("compiled %s in %.1f s", policy.config.name, self.seconds)

    def _rehearse(self, policy: Any, slots: AdapterSlots) -> None:
        """Everything once to compile it, and once more with other sizes, where compiling is an error."""
        self._marking = True
        for length, rank in zip(_LENGTHS, _RANKS, strict=True):
            for staged in (None, *([slots.blank(rank)] if isinstance(slots, StackedSlots) else [])):
                slots.activate(staged)
                if self._marking and staged is not None and isinstance(staged.parts, StackedParts):
                    torch._dynamo.mark_dynamic(staged.parts.stack.a, 0)
                    torch._dynamo.mark_dynamic(staged.parts.stack.b, 1)
                policy.rehearse(length)
            self._marking, self.stance = False, "fail_on_recompile"
        slots.activate(None)

    def _wrapped(self, function: Callable[..., Tensor], varying: Mapping[int, int]) -> Callable[..., Tensor]:
        compile_: Any = torch.compile
        # Functions of two policies are one piece of code: each keeps what was compiled for it.
        compiled = compile_(
            function, fullgraph=True, backend=self._backend, recompile_limit=_MOST, isolate_recompiles=True
        )

        def call(*inputs: Any) -> Tensor:
            if self._marking:
                for place, dimension in varying.items():
                    torch._dynamo.mark_dynamic(inputs[place], dimension)
            with torch.compiler.set_stance(self.stance):
                found: Tensor = compiled(*inputs)
            return found

        return call


def refuse_rounded(model: nn.Module) -> None:
    """Raises PolicyError 208 for weights in 8 or 4 bits, whose layers do work that is not torch's."""
    if is_rounded(model):
        raise PolicyError(
            ErrorCode.POLICY_BAD_PARAMETER,
            "rounded weights cannot be compiled",
            value="compile: true",
            limit="weights: stored",
            remedy="set compile to false, or weights to stored",
        )


def _failed(error: Exception) -> PolicyError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return PolicyError(
        ErrorCode.POLICY_BAD_PARAMETER,
        f"the policy cannot be compiled here: {type(error).__name__}: {lines[0] if lines else ''}",
        value="compile: true",
        limit="a policy and a machine that torch.compile knows",
        remedy=_REMEDY,
    )
