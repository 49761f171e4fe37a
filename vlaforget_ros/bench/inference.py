"""Actions per second of the serving engine, beside the library's own path on the same weights, in turns in one run.

* plain: the network's vision and projector, then ``generate`` of the library on the embeddings, PEFT's layers active;
  of OpenVLA-OFT, which generates nothing, the library's one pass, with the LM head that upstream computes and drops;
* narrow: of OpenVLA the same with an LM head for action tokens only, of OpenVLA-OFT without one: what the engine has
  beyond that, since a small model with the vocabulary of the large one is mostly head (``head_share``);
* loop: of pi0-FAST as plain, without ``generate``: the library's Gemma with its cache, as lerobot decodes;
* factors: the engine with the adapter's factors beside the layers;
* merged: the engine with the adapter merged into copies of the layers; on a GPU its work is replayed as a CUDA graph;
* compiled, compiled_factors: as merged and factors, with hot functions compiled; how long compiling took, and how many
  functions a change of adapter (the base, one of another rank) or of prompt would compile anew;
* int8, nf4: the engine with factors beside a language model whose weights are rounded. It is another policy: how many
  of its tokens are the stored weights' is reported, and with random weights, all near a tie, that is the worst case.

Weights are random, so tokens near a tie may differ between paths that round differently: the share of equal ones is
reported; of OpenVLA-OFT tokens are the bins that the numbers of a chunk fall into. Loading is measured in a process of
its own, which does nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from vlaforget_ros import figures
from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.bench import library_paths
from vlaforget_ros.bench.compiled_paths import CompiledPath
from vlaforget_ros.bench.random_release import STATISTICS, Model, Release, Size, released
from vlaforget_ros.bench.sizing import head_share
from vlaforget_ros.bench.swap import random_adapter
from vlaforget_ros.figures import Figure
from vlaforget_ros.policy.decoding import Decoder
from vlaforget_ros.policy.graphs import Graphs
from vlaforget_ros.policy.merged import slots_for
from vlaforget_ros.policy.openvla_7b import openvla_7b_config
from vlaforget_ros.policy.pi0_configs import GEMMA_2B
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.weight_only import Weights, bytes_of
from vlaforget_ros.unlearning.guard import peak_mb

INSTRUCTION = "put the red mug on the plate"
ROUNDED: tuple[Weights, ...] = ("int8", "nf4")
_WARM_UPS = 2


@dataclass(frozen=True)
class Settings:
    """What is timed.

    Args:
        model: kind of policy.
        size: every part small, or as released.
        device: cpu or cuda.
        repeats: timed actions of each path.
        seed: of weights, adapter and images.
        folder: for the checkpoint; a temporary one if None.
        compiled: time compiled functions as well.
        rounded: time rounded weights as well.
        dtype: of the weights; if None single precision on the CPU, bfloat16 on a GPU.
        blocks: uppermost language blocks that the adapter touches; 0: every editable layer.
    """

    model: Model
    size: Size
    device: str = "cpu"
    repeats: int = 30
    seed: int = 0
    folder: Path | None = None
    compiled: bool = False
    rounded: bool = True
    dtype: torch.dtype | None = None
    blocks: int = 0


@dataclass(frozen=True)
class Loading:
    """What loading a checkpoint took.

    Args:
        seconds: wall clock.
        host_mb: most host memory beyond what the process had before.
    """

    seconds: float
    host_mb: float


def measure(settings: Settings, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Load, then time the three paths in turns.

    Args:
        settings: what is timed.
        progress: called with (rounds done, all).
    """
    with released(
        settings.size,
        settings.device,
        (INSTRUCTION,),
        settings.seed,
        settings.folder,
        settings.model,
        settings.dtype,
    ) as release:
        return _measure(settings, release, progress)


def _measure(settings: Settings, release: Release, progress: Callable[[int, int], None]) -> dict[str, Any]:
    loading = load(release.directory, settings.device)
    policy = VlaPolicy.load(release.directory, settings.device)
    store = AdapterStore(release.directory.parent / "store")
    weights = random_adapter(policy, settings.seed, scale=0.01, blocks=settings.blocks)
    digest = store.add_weights(weights, {"name": "random", "method": "random"}).digest

    paths = library_paths.paths(policy, store.path(digest), INSTRUCTION)
    for name, merge in (("factors", False), ("merged", True)):
        paths[name] = _ours(policy.twin(), store, digest, merge)
    compiled: dict[str, CompiledPath] = {}
    if settings.compiled:
        other = random_adapter(
            policy, settings.seed + 1, rank=weights.rank // 2, scale=0.01, blocks=settings.blocks
        )
        digests = (digest, store.add_weights(other, {"name": "other", "method": "random"}).digest)
        for name, merge in (("compiled", True), ("compiled_factors", False)):
            own = CompiledPath(policy.twin(), store, digests, merge, INSTRUCTION, policy.config.zero_state)
            compiled[name], paths[name] = own, own.act
    stored = bytes_of(policy.model)
    held: dict[str, int] = {}
    for name in ROUNDED if settings.rounded else ():
        rounded = VlaPolicy.load(release.directory, settings.device, weights=name)
        held[name] = bytes_of(rounded.model)
        paths[name] = _ours(rounded, store, digest, merge=False)
    seconds, tokens = _in_turns(paths, policy, settings, progress)

    found = [*_rates(seconds, tokens), *_loading_figures(loading, stored, release.largest_shard)]
    as_released = GEMMA_2B if settings.model == "pi0_fast" else openvla_7b_config(STATISTICS).language
    found.append(Figure("head_share", head_share(policy.config.language), "ratio"))
    found.append(Figure("head_share_released", head_share(as_released), "ratio"))
    for name, own in compiled.items():
        again = own.recompilations(library_paths.noise(policy, settings.seed))
        found.append(Figure(f"compile_seconds_{name}", own.seconds, "s"))
        found.append(Figure(f"recompilations_{name}", float(again), "count"))
    found += [Figure(f"weights_mb_{name}", size / 1e6, "MB") for name, size in held.items()]
    found += [Figure(f"weights_ratio_{name}", size / stored, "ratio") for name, size in held.items()]
    if settings.device.startswith("cuda") and policy.config.oft is None:
        found += _bandwidth(policy)
    return figures.document(
        "inference",
        found,
        [settings.seed],
        model=settings.model,
        size=settings.size,
        device=settings.device,
        dtype=str(release.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        adapter_rank=weights.rank,
        adapter_layers=len(weights.modules),
    )


def load(directory: Path, device: str) -> Loading:
    """What loading a checkpoint takes, in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_load, str(directory), device).result()


def _load(directory: str, device: str) -> Loading:
    """In the new process: everything is imported, and the device woken, before the clock starts."""
    torch.zeros(1, device=device)
    process = psutil.Process()
    before, peak_before = process.memory_info().rss / 1e6, peak_mb()
    began = time.perf_counter()
    policy = VlaPolicy.load(Path(directory), device)
    _wait(device)
    seconds = time.perf_counter() - began
    # The highest mark so far counts only if loading set it; the present size is a lower bound either way.
    peak = peak_mb() - (torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0)
    now = process.memory_info().rss / 1e6
    del policy
    return Loading(seconds, max(peak if peak > peak_before else 0.0, now) - before)


def _ours(
    policy: VlaPolicy, store: AdapterStore, digest: str, merge: bool
) -> Callable[[np.ndarray], tuple[int, ...]]:
    slots = slots_for(policy.model, merge)
    slots.activate(slots.stage(store.load(digest)))
    state = policy.config.zero_state
    return lambda image: policy.act(image, INSTRUCTION, state).tokens


def _in_turns(
    paths: dict[str, Callable[[np.ndarray], tuple[int, ...]]],
    policy: VlaPolicy,
    settings: Settings,
    progress: Callable[[int, int], None],
) -> tuple[dict[str, np.ndarray], dict[str, list[tuple[int, ...]]]]:
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    tokens: dict[str, list[tuple[int, ...]]] = {name: [] for name in paths}
    for number in range(-_WARM_UPS, settings.repeats):
        image = library_paths.noise(policy, settings.seed + number + _WARM_UPS)
        for name, act in paths.items():
            _wait(settings.device)
            began = time.perf_counter()
            found = act(image)
            _wait(settings.device)
            if number >= 0:
                seconds[name].append(time.perf_counter() - began)
                tokens[name].append(found)
        progress(max(number + 1, 0), settings.repeats)
    return {name: np.array(values) for name, values in seconds.items()}, tokens


def _rates(seconds: dict[str, np.ndarray], tokens: dict[str, list[tuple[int, ...]]]) -> list[Figure]:
    n = len(seconds["plain"])
    found = []
    others = [name for name in seconds if name not in ("merged", "plain")]
    for name, suffix in (("merged", ""), *((name, f"_{name}") for name in others)):
        ratios = seconds["plain"] / seconds[name]
        low, high = (float(np.percentile(ratios, q)) for q in (2.5, 97.5))
        ratio = float(np.median(seconds["plain"]) / np.median(seconds[name]))
        found.append(Figure(f"actions_per_second_ratio{suffix}", ratio, "ratio", n, low, high))
    for name, suffix in (("merged", ""), *((name, f"_{name}") for name in ("plain", *others))):
        found.append(Figure(f"actions_per_second{suffix}", 1.0 / float(np.median(seconds[name])), "1/s", n))
    for name in ("merged", *others):
        pairs = zip(tokens[name], tokens["plain"], strict=True)
        equal = [a == b for own, theirs in pairs for a, b in zip_longest(own, theirs)]
        found.append(Figure(f"equal_tokens_share_{name}", float(np.mean(equal)), "ratio", len(equal)))
    return found


def _loading_figures(loading: Loading, stored: int, shard: int) -> list[Figure]:
    return [
        Figure("load_seconds", loading.seconds, "s"),
        Figure("load_peak_host_mb", loading.host_mb, "MB"),
        Figure("weights_mb", stored / 1e6, "MB"),
        Figure("largest_shard_mb", shard / 1e6, "MB"),
        Figure("peak_mb", peak_mb(), "MB"),
    ]


def _bandwidth(policy: VlaPolicy, tokens: int = 16, runs: int = 10) -> list[Figure]:
    """How much of the memory's speed decoding uses: the language model's weights are read once for each token."""
    language: Any = policy.model.language_model
    read = sum(p.numel() * p.element_size() for p in language.model.layers.parameters())
    embeds = torch.randn(1, 280, language.config.hidden_size, device=policy.device).to(
        language.lm_head.weight.dtype
    )
    took = []
    for count in (1, tokens + 1):
        decoder = Decoder(policy.model, policy.codec.tokens)
        run = Graphs(policy.model, partial(decoder.decode, count=count))
        took.append(_median_seconds(partial(run, embeds), policy.device, runs))
    achieved = read * tokens / (took[1] - took[0])
    block = torch.empty(2_000_000_000, dtype=torch.uint8, device=policy.device)
    other = torch.empty_like(block)
    copied = 2 * block.numel() / _median_seconds(partial(other.copy_, block), policy.device, runs)
    return [
        Figure("bandwidth_share", achieved / copied, "ratio", runs),
        Figure("decoding_gb_per_second", achieved / 1e9, "GB/s", runs),
        Figure("copying_gb_per_second", copied / 1e9, "GB/s", runs),
    ]


def _median_seconds(call: Callable[[], object], device: torch.device, runs: int) -> float:
    found = []
    for _ in range(runs + _WARM_UPS):
        _wait(str(device))
        began = time.perf_counter()
        call()
        _wait(str(device))
        found.append(time.perf_counter() - began)
    return float(np.median(found[_WARM_UPS:]))


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
