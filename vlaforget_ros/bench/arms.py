"""What one model for several arms buys: their observations in one batch, each row with its own adapter, or in turns."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlaforget_ros import figures
from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.bench.swap import random_adapter
from vlaforget_ros.figures import Figure
from vlaforget_ros.policy.engine import InferenceEngine
from vlaforget_ros.policy.policy import Prediction, VlaPolicy

# Longer than a busy machine needs to start the other threads: every round is one batch.
_WAIT_MS = 500.0
_WARM_UPS = 3


@dataclass(frozen=True)
class Kind:
    """One policy that is measured.

    Args:
        ending: of its figures' names.
        policy: without adapters; the model is shared by all arms.
        instruction: one that it knows.
        rank: of the random adapters, which touch every editable layer.
    """

    ending: str
    policy: VlaPolicy
    instruction: str
    rank: int


def measure(
    kinds: Sequence[Kind],
    arms: Sequence[int],
    rounds: int,
    seed: int = 0,
    report: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, Any]:
    """Time the arms' inferences at once and one after the other, in turns in one run, each arm with its own adapter.

    An output is mixed where its tokens are not those of its own adapter served alone.

    Args:
        kinds: what is measured.
        arms: numbers of arms.
        rounds: one inference of each arm, both ways.
        seed: of adapters and images.
        report: called with (what, done, all).
    """
    found: list[Figure] = []
    for kind in kinds:
        with tempfile.TemporaryDirectory() as directory:
            store = AdapterStore(Path(directory))
            digests = [
                store.add_weights(
                    random_adapter(kind.policy, seed + index, rank=kind.rank),
                    {"name": f"edit-{index}", "method": "random"},
                ).digest
                for index in range(max(arms))
            ]
            for count in arms:
                found += _beside_each_other(kind, store, digests[:count], rounds, seed, report)
    return figures.document("arms", found, [seed], base_digest=kinds[0].policy.base_digest)


def _beside_each_other(
    kind: Kind,
    store: AdapterStore,
    digests: Sequence[str],
    rounds: int,
    seed: int,
    report: Callable[[str, int, int], None],
) -> list[Figure]:
    count, size = len(digests), kind.policy.config.featurizer.image_size
    images = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    times: dict[str, list[float]] = {"together": [], "in_turns": []}
    mixed = 0
    with ExitStack() as stack:
        # Two models of the same weights: arms that share one would wait for each other in turns as well.
        together = _engines(kind.policy.twin(), store, digests, _WAIT_MS, stack)
        in_turns = _engines(kind.policy.twin(), store, digests, 0.0, stack)
        pool = stack.enter_context(ThreadPoolExecutor(count))

        def ask(engine: InferenceEngine, row: int, step: int) -> Prediction:
            return engine.infer(images[row], kind.instruction, step).prediction

        expected = [ask(engine, row, 0).tokens for row, engine in enumerate(in_turns)]
        for step in range(_WARM_UPS + rounds):
            began = time.perf_counter()
            waiting = [pool.submit(ask, engine, row, step) for row, engine in enumerate(together)]
            answers = [future.result() for future in waiting]
            middle = time.perf_counter()
            answers += [ask(engine, row, step) for row, engine in enumerate(in_turns)]
            ended = time.perf_counter()
            mixed += sum(a.tokens != expected[index % count] for index, a in enumerate(answers))
            if step >= _WARM_UPS:
                times["together"].append(middle - began)
                times["in_turns"].append(ended - middle)
            report(f"{count} arms{kind.ending.replace('_', ' ')}", step, _WARM_UPS + rounds)
    milliseconds = {name: 1e3 * float(np.median(values)) for name, values in times.items()}
    name = f"arms_{count}"
    return [
        Figure(f"{name}_together_ms{kind.ending}", milliseconds["together"], "ms", rounds),
        Figure(f"{name}_in_turns_ms{kind.ending}", milliseconds["in_turns"], "ms", rounds),
        Figure(
            f"{name}{kind.ending}_ratio", milliseconds["in_turns"] / milliseconds["together"], "ratio", rounds
        ),
        Figure(f"{name}_mixed_outputs{kind.ending}", float(mixed), "count", 2 * count * (_WARM_UPS + rounds)),
    ]


def _engines(
    policy: VlaPolicy, store: AdapterStore, digests: Sequence[str], wait_ms: float, stack: ExitStack
) -> list[InferenceEngine]:
    """One engine for each adapter, all on one model."""
    made: list[InferenceEngine] = []
    for digest in digests:
        engine = InferenceEngine(policy, store, wait_ms=wait_ms, beside=made[0] if made else None)
        made.append(stack.enter_context(engine))
        engine.swap(digest)
    return made
