"""What swapping costs: staging, the flip beside PEFT's set_adapter, inference with and without."""

from __future__ import annotations

import copy
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vlaforget_ros import figures
from vlaforget_ros.adapters import AdapterStore, LoraWeights
from vlaforget_ros.bench import swap_load
from vlaforget_ros.bench.swap_load import Report
from vlaforget_ros.figures import Figure
from vlaforget_ros.policy.engine import Inference, InferenceEngine
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.slots import AdapterSlots

RANK = 16
ADAPTERS = 20
FEW = 6


@dataclass(frozen=True)
class Load:
    """How much is asked of swaps under load.

    Args:
        inferences: with a swap every 20 ms, and as many without.
        cycles: swaps through all adapters for the figure of memory.
        changes: on a model of 200 million parameters beside PEFT; 0: none, it takes 2 GB.
    """

    inferences: int = 5000
    cycles: int = 1000
    changes: int = 200


def measure(
    policy: VlaPolicy,
    instruction: str,
    repeats: int = 200,
    seed: int = 0,
    load: Load | None = None,
    report: Report = lambda what, done, total: None,
) -> dict[str, Any]:
    """Time swaps and inferences with random adapters on every editable layer.

    Ratios compare medians of measurements that took turns in one run: ``swap_vs_peft_ratio`` is our flip over
    PEFT's set_adapter, ``inference_*_ratio`` are inferences over those of the plain base model; ratios of the large
    model are PEFT's times over ours.

    Args:
        policy: a policy small enough for three copies of its model; it is the base model again afterwards.
        instruction: one that the policy knows.
        repeats: timed swaps, and timed inferences of each kind.
        seed: for the adapters and the image.
        load: of the parts under load; None: as it is defined.
        report: called with (what, done, all).
    """
    load = load or Load()
    size = policy.config.featurizer.image_size
    image = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as directory:
        store = AdapterStore(Path(directory))
        digests = [
            store.add_weights(
                random_adapter(policy, seed + index), {"name": f"edit-{index}", "method": "random"}
            ).digest
            for index in range(ADAPTERS)
        ]

        def infer(engine: InferenceEngine) -> Inference:
            return engine.infer(image, instruction)

        found = [
            Figure("adapter_mb", store.manifest(digests[0]).size_bytes / 1e6, "MB"),
            *_flips_and_inferences(policy, store, digests, repeats, lambda p: p.act(image, instruction)),
            *_engine_swaps(policy, store, digests[:FEW], repeats, infer),
            *swap_load.stream(policy, store, digests[:FEW], load.inferences, infer, report),
            *swap_load.memory(policy, store, digests, load.cycles, report),
        ]
    if load.changes:
        found += _large(load.changes, seed, report)
    return figures.document("swap", found, [seed], base_digest=policy.base_digest, rank=RANK)


def _large(changes: int, seed: int, report: Report) -> list[Figure]:
    policy = swap_load.large_policy()
    with tempfile.TemporaryDirectory() as directory:
        store = AdapterStore(Path(directory))
        digests = [
            store.add_weights(
                random_adapter(policy, seed + index, rank=swap_load.LARGE_RANK),
                {"name": f"edit-{index}", "method": "random"},
            ).digest
            for index in range(2)
        ]
        return swap_load.beside_peft(policy, store, digests, changes, report)


def random_adapter(
    policy: VlaPolicy, seed: int, scale: float = 0.1, rank: int = RANK, blocks: int = 0
) -> LoraWeights:
    """A random adapter, its factors drawn with this standard deviation.

    Args:
        policy: that it is for.
        seed: of the factors.
        scale: their standard deviation.
        rank: of all.
        blocks: uppermost language blocks that it touches; 0: every editable layer of the network.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = policy.components()
    layers = parts["language"][-blocks:] if blocks else [layer for part in parts.values() for layer in part]
    editable = {name for layer in layers for name in layer.modules}
    tensors = {
        name: (
            scale * torch.randn(rank, module.in_features, generator=generator),
            scale * torch.randn(module.out_features, rank, generator=generator),
        )
        for name, module in policy.model.named_modules()
        if name in editable and isinstance(module, nn.Linear)
    }
    return LoraWeights.from_tensors(tensors, alpha=rank, base_digest=policy.base_digest)


def _flips_and_inferences(
    policy: VlaPolicy,
    store: AdapterStore,
    digests: Sequence[str],
    repeats: int,
    act: Callable[[VlaPolicy], object],
) -> list[Figure]:
    import peft

    plain, tuned = _copy(policy), _copy(policy)
    model = peft.PeftModel.from_pretrained(tuned.model, str(store.path(digests[0])), adapter_name="a")
    model.load_adapter(str(store.path(digests[1])), adapter_name="b")
    model.eval()
    slots = AdapterSlots(policy.model)
    first, second = (slots.stage(store.load(digest)) for digest in digests[:2])
    times: dict[str, list[float]] = {}
    with torch.inference_mode():
        for index in range(repeats):
            target, name = (second, "b") if index % 2 == 0 else (first, "a")
            _time(times, "plain", lambda: act(plain))
            _time(times, "peft_swap", partial(model.set_adapter, name, inference_mode=True))
            _time(times, "peft", lambda: act(tuned))
            slots.activate(None)
            _time(times, "idle", lambda: act(policy))
            _time(times, "swap", partial(slots.activate, target))
            _time(times, "adapter", lambda: act(policy))
    slots.remove()
    middle = {name: float(np.median(values)) for name, values in times.items()}
    return [
        Figure("flip_us", 1e3 * middle["swap"], "us", repeats),
        Figure("peft_set_adapter_ms", middle["peft_swap"], "ms", repeats),
        Figure("swap_vs_peft_ratio", middle["swap"] / middle["peft_swap"], "ratio", repeats),
        Figure("inference_ms_base", middle["plain"], "ms", repeats),
        Figure("inference_ms_adapter", middle["adapter"], "ms", repeats),
        Figure("inference_idle_ratio", middle["idle"] / middle["plain"], "ratio", repeats),
        Figure("inference_adapter_ratio", middle["adapter"] / middle["plain"], "ratio", repeats),
        Figure("inference_peft_ratio", middle["peft"] / middle["plain"], "ratio", repeats),
    ]


def _engine_swaps(
    policy: VlaPolicy,
    store: AdapterStore,
    digests: Sequence[str],
    repeats: int,
    infer: Callable[[InferenceEngine], Inference],
) -> list[Figure]:
    """Swaps of a serving engine, most of them from the disk: two adapters stay resident, six take turns."""
    with InferenceEngine(policy, store, resident_limit=2) as engine:
        expected = {}
        for digest in digests:
            engine.swap(digest)
            expected[digest] = infer(engine).prediction.tokens
        done = threading.Event()
        answers: list[Inference] = []

        def keep_inferring() -> None:
            while not done.is_set():
                answers.append(infer(engine))

        serving = threading.Thread(target=keep_inferring)
        serving.start()
        results = [engine.swap(digests[index % len(digests)]) for index in range(repeats)]
        rollback = engine.rollback("benchmark")
        done.set()
        serving.join()
    staged = [result.staged_ms for result in results if result.staged_ms > 0]
    swaps = [result.swap_ms for result in results]
    mixed = sum(answer.prediction.tokens != expected[answer.adapter_digest] for answer in answers)
    return [
        Figure("staged_ms", float(np.median(staged)), "ms", len(staged)),
        Figure("swap_ms", float(np.median(swaps)), "ms", len(swaps)),
        Figure("swap_ms_p99", float(np.percentile(swaps, 99)), "ms", len(swaps)),
        Figure("rollback_ms", rollback.swap_ms, "ms"),
        Figure("mixed_actions", float(mixed), "count", len(answers)),
    ]


def _copy(policy: VlaPolicy) -> VlaPolicy:
    return VlaPolicy(copy.deepcopy(policy.model), policy.tokenizer, policy.base_digest)


def _time(times: dict[str, list[float]], name: str, call: Callable[[], object]) -> None:
    start = time.perf_counter()
    call()
    times.setdefault(name, []).append((time.perf_counter() - start) * 1e3)
