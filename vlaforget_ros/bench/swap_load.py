"""Swaps under load: what they do to a stream of inferences, to memory, and on a large model beside PEFT's own."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import psutil

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.bench.random_release import STATISTICS
from vlaforget_ros.figures import Figure
from vlaforget_ros.policy.engine import Inference, InferenceEngine
from vlaforget_ros.policy.memory import settle, unsettle
from vlaforget_ros.policy.networks import build
from vlaforget_ros.policy.openvla_7b import openvla_small_config
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.prompt import build_tokenizer
from vlaforget_ros.policy.slots import AdapterSlots

TICK_S = 0.1
SWAP_EVERY_S = 0.02
SETTLED = 10
# About 200 million parameters, and the rank that makes an adapter of all their layers about 28 MB.
_LARGE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12}
LARGE_RANK = 30
Report = Callable[[str, int, int], None]


def stream(
    policy: VlaPolicy,
    store: AdapterStore,
    digests: Sequence[str],
    inferences: int,
    infer: Callable[[InferenceEngine], Inference],
    report: Report,
) -> list[Figure]:
    """Inferences without a pause, an adapter swapped in every 20 ms; then as many with no swap.

    An output is mixed when it is not that of the adapter it names. A tick is missed when an answer takes longer than
    a tenth of a second; those without swaps say what the machine does by itself.

    Args:
        policy: that serves.
        store: has the adapters.
        digests: that take turns.
        inferences: of each of the two runs.
        infer: one inference, always of the same observation.
        report: called with (what, done, all).
    """
    with InferenceEngine(policy, store, resident_limit=len(digests) + 1) as engine:
        expected = {}
        for digest in digests:
            engine.swap(digest)
            expected[digest] = infer(engine).prediction.tokens
        done, swaps = threading.Event(), list[float]()

        def keep_swapping() -> None:
            while not done.wait(SWAP_EVERY_S):
                swaps.append(engine.swap(digests[len(swaps) % len(digests)]).swap_ms)

        swapping = threading.Thread(target=keep_swapping)
        # As the policy node does before it serves.
        settle()
        swapping.start()
        answers, with_swaps = _run(engine, inferences, infer, partial(report, "inferences with swaps"))
        done.set()
        swapping.join()
        _, alone = _run(engine, inferences, infer, partial(report, "inferences without"))
    unsettle()
    mixed = sum(answer.prediction.tokens != expected[answer.adapter_digest] for answer in answers)
    return [
        Figure("inferences", float(len(answers)), "count"),
        Figure("swaps", float(len(swaps)), "count"),
        Figure("mixed_outputs", float(mixed), "count", len(answers)),
        Figure("missed_ticks", float(np.sum(with_swaps > TICK_S)), "count", len(answers)),
        Figure("missed_ticks_without_swaps", float(np.sum(alone > TICK_S)), "count", len(answers)),
        Figure("answer_ms_p99", 1e3 * float(np.percentile(with_swaps, 99)), "ms", len(answers)),
        Figure("answer_ms_p99_without_swaps", 1e3 * float(np.percentile(alone, 99)), "ms", len(answers)),
    ]


def _run(
    engine: InferenceEngine,
    count: int,
    infer: Callable[[InferenceEngine], Inference],
    report: Callable[[int, int], None],
) -> tuple[list[Inference], np.ndarray]:
    answers, seconds = [], []
    for number in range(count):
        began = time.perf_counter()
        answers.append(infer(engine))
        seconds.append(time.perf_counter() - began)
        if number % 100 == 99:
            report(number + 1, count)
    return answers, np.array(seconds)


def memory(
    policy: VlaPolicy, store: AdapterStore, digests: Sequence[str], cycles: int, report: Report
) -> list[Figure]:
    """Resident memory over many cycles through all adapters, most of them read from the disk each time.

    Args:
        policy: that serves.
        store: has the adapters.
        digests: one after the other.
        cycles: swaps.
        report: called with (what, done, all).
    """
    process = psutil.Process()
    settled = 0
    with InferenceEngine(policy, store) as engine:
        for number in range(cycles):
            engine.swap(digests[number % len(digests)])
            if number + 1 == SETTLED:
                gc.collect()
                settled = process.memory_info().rss
            if number % 50 == 49:
                report("swap cycles", number + 1, cycles)
        gc.collect()
        growth = 100.0 * (process.memory_info().rss - settled) / settled
    return [
        Figure("swap_cycles", float(cycles), "count"),
        Figure("memory_growth_percent", growth, "percent", cycles),
    ]


def large_policy() -> VlaPolicy:
    """OpenVLA's form with 200 million random parameters."""
    config = openvla_small_config(STATISTICS)
    language = {**config.language, **_LARGE, "num_attention_heads": 16, "num_key_value_heads": 16}
    model = build(config.model_copy(update={"language": language}))
    return VlaPolicy(model.eval().requires_grad_(False), build_tokenizer(["open the faucet"], 64), "0" * 64)


def beside_peft(
    policy: VlaPolicy, store: AdapterStore, digests: Sequence[str], repeats: int, report: Report
) -> list[Figure]:
    """How long the model cannot be used during a change of adapters: the flip, and what PEFT offers, in turns.

    PEFT's calls change the model in place, so that for their whole length nothing can be inferred. Here reading,
    checking and staging go on beside the model; how long they take is ``staged_ms_large``.

    Args:
        policy: a large one.
        store: has the adapters.
        digests: two of them.
        repeats: of each kind; reading kinds are repeated a tenth as often.
        report: called with (what, done, all).
    """
    import peft
    from peft.utils.hotswap import hotswap_adapter

    first, second = (str(store.path(digest)) for digest in digests[:2])
    twin: Any = policy.twin().model
    tuned = peft.PeftModel.from_pretrained(twin, first, adapter_name="a")
    tuned.load_adapter(second, adapter_name="b")
    tuned.eval()
    slots = AdapterSlots(policy.model)
    times: dict[str, list[float]] = {}
    staged = [slots.stage(store.load(digest)) for digest in digests[:2]]
    for number in range(repeats):
        _time(times, "flip", partial(slots.activate, staged[number % 2]))
        _time(times, "set_adapter", partial(tuned.set_adapter, "ab"[number % 2], inference_mode=True))
        if number % 10 == 0:
            folder = (first, second)[number // 10 % 2]
            _time(times, "staged", partial(_stage, slots, store, digests[number // 10 % 2]))
            _time(times, "hotswap_adapter", partial(hotswap_adapter, tuned, folder, "a"))
            _time(times, "load_adapter", partial(tuned.load_adapter, folder, adapter_name="c"))
            tuned.delete_adapter("c")
            report("changes on a large model", number, repeats)
    slots.remove()
    flip = float(np.median(times["flip"]))
    return [
        Figure("parameters_large", float(sum(p.numel() for p in policy.model.parameters())), "count"),
        Figure("adapter_mb_large", store.manifest(digests[0]).size_bytes / 1e6, "MB"),
        Figure("flip_ms_p50", flip, "ms", repeats),
        Figure("flip_ms_p99", float(np.percentile(times["flip"], 99)), "ms", repeats),
        Figure("staged_ms_large", float(np.median(times["staged"])), "ms", len(times["staged"])),
        *(
            figure
            for name in ("set_adapter", "load_adapter", "hotswap_adapter")
            for figure in (
                Figure(f"{name}_ms", float(np.median(times[name])), "ms", len(times[name])),
                Figure(f"{name}_ratio", float(np.median(times[name])) / flip, "ratio", len(times[name])),
            )
        ),
    ]


def _stage(slots: AdapterSlots, store: AdapterStore, digest: str) -> object:
    return slots.stage(store.load(digest))


def _time(times: dict[str, list[float]], name: str, call: Callable[[], object]) -> None:
    began = time.perf_counter()
    call()
    times.setdefault(name, []).append((time.perf_counter() - began) * 1e3)
