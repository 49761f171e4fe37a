"""What a training step costs in each stage: frozen work done once, against the plain form.

Both forms compute the same gradients of the same objective on the same batches, in turns, in one run:

* plain: every step runs the policy's own forward pass on the batch twice, from the pixels to the logits of all
  positions: as student and, with the adapter off, as teacher;
* ours: what the frozen layers below the first edited block make of each frame is cached, and so is what the original
  policy said; the last block is run at the positions that predict actions.

In the visual and the projector stage the feature term is left out of both: the plain pass gives logits only.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vlaforget_ros import figures
from vlaforget_ros.episodes.dataset import FrameSet
from vlaforget_ros.figures import Figure
from vlaforget_ros.policy.images import pixel_values
from vlaforget_ros.policy.policy import Batch, VlaPolicy
from vlaforget_ros.policy.weight_only import bytes_of
from vlaforget_ros.unlearning.bank import Bank
from vlaforget_ros.unlearning.data import EditData, Sampler
from vlaforget_ros.unlearning.edit import EditSettings, prepare
from vlaforget_ros.unlearning.gates import Gates
from vlaforget_ros.unlearning.guard import Guard, peak_mb
from vlaforget_ros.unlearning.methods.vla_forget import VlaForget, VlaForgetParameters
from vlaforget_ros.unlearning.network import Output
from vlaforget_ros.unlearning.parameters import StageName
from vlaforget_ros.unlearning.portions import training_passes
from vlaforget_ros.unlearning.steps import Step
from vlaforget_ros.unlearning.views import View
from vlaforget_ros.unlearning.workbench import Workbench

Form = Literal["plain", "ours"]
FORMS: tuple[Form, Form] = ("plain", "ours")


@dataclass(frozen=True)
class Settings:
    """What is timed.

    Args:
        blocks: language blocks that are edited, from the top.
        frames: frames of each set.
        steps: timed steps of each form.
        parameters: of the method: batch sizes, precision, checkpointing.
        instructions: two that the policy can read.
        seed: of frames and batches.
        stages: which; each on a policy without factors of another one. In the visual and the projector stage the
            uppermost ``top_k`` layers are edited.
    """

    blocks: int
    frames: int
    steps: int
    parameters: VlaForgetParameters
    instructions: tuple[str, str]
    seed: int = 0
    stages: tuple[StageName, ...] = ("language",)


@dataclass
class Times:
    """What the steps of one stage took.

    Args:
        seconds: form -> of each timed step.
        counts: form -> tokens through blocks of a step, by component.
        gradients: form -> of the last step.
        peaks: form -> largest memory on a GPU [B]; nothing on the CPU.
    """

    seconds: dict[Form, list[float]] = field(default_factory=lambda: {form: [] for form in FORMS})
    counts: dict[Form, Counter[str]] = field(default_factory=dict)
    gradients: dict[Form, list[Tensor]] = field(default_factory=dict)
    peaks: dict[Form, int] = field(default_factory=dict)


def measure(policy: VlaPolicy, settings: Settings, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Time both forms in turns.

    Args:
        policy: stays as it is.
        settings: what is timed.
        progress: called with (steps done, all).
    """
    every = settings.steps * len(settings.stages)
    times = {}
    for place, stage in enumerate(settings.stages):
        offset = place * settings.steps
        times[stage] = _stage(
            policy.twin(recorded=False),
            settings,
            stage,
            lambda done, offset=offset: progress(offset + done, every),  # type: ignore[misc]
        )
    found = [figure for stage, own in times.items() for figure in _figures(policy, stage, own)]
    return figures.document(
        "edit",
        [
            *found,
            Figure("weights_mb", round(bytes_of(policy.model) / 1e6, 1), "MB"),
            Figure("peak_mb", round(peak_mb(), 1), "MB"),
        ],
        [settings.seed],
        model=policy.config.name,
        device=str(policy.device),
        edited_blocks=settings.blocks,
        tokens_through_blocks={
            stage: {form: dict(sorted(count.items())) for form, count in own.counts.items()}
            for stage, own in times.items()
        },
        parameters=settings.parameters.model_dump(mode="json"),
    )


def _stage(policy: VlaPolicy, settings: Settings, stage: StageName, progress: Callable[[int], None]) -> Times:
    bench, factors, names = _bench(policy, settings, stage)
    without = {} if stage == "language" else {"lambda_feat": 0.0}
    method = VlaForget(settings.parameters.model_copy(update=without))
    samplers = {
        name: Sampler(rows, getattr(settings.parameters, f"batch_{name}"), (settings.seed, place))
        for place, (name, rows) in enumerate(sorted(bench.rows.train.items()))
    }
    entry = bench.network.entry(names)
    frames = sum(getattr(settings.parameters, f"batch_{name}") for name in samplers)
    most, again = training_passes(policy, entry, frames, settings.parameters.gradient_checkpointing)
    # The plain form takes whole batches.
    passes: dict[Form, int] = {"plain": 0, "ours": settings.parameters.micro_batch or most}
    times = Times()
    for number in range(settings.steps + 1):
        batch = {name: sampler.draw() for name, sampler in samplers.items()}
        for form in FORMS:
            # The first plain step, which warms up, is over: only its memory is that of a form without a cache.
            if (number, form) == (0, "ours"):
                bench.enter_at(entry)
            cached = number > 0 or form == "ours"
            with (
                counted(policy, bench) as count,
                _peak(policy, form, times, counts=cached == (form == "ours")),
                bench.network.recomputing(again and form == "ours"),
            ):
                began = time.perf_counter()
                kind = PlainStep if form == "plain" else Step
                step = kind(number + 1, settings.steps, bench.banks, batch, factors, passes[form])
                if form == "plain":
                    _teacher(bench, batch)
                times.gradients[form] = method.gradients(step).gradients
                _wait(policy)
                took = time.perf_counter() - began
            times.counts[form] = count
            # The first step of each form warms up.
            if number:
                times.seconds[form].append(took)
        progress(number)
    return times


@contextmanager
def _peak(policy: VlaPolicy, form: Form, times: Times, counts: bool) -> Iterator[None]:
    """On a GPU, remember the largest memory of what is done inside, where it counts."""
    _wait(policy)
    if policy.device.type != "cuda" or not counts:
        yield
        return
    torch.cuda.reset_peak_memory_stats(policy.device)
    yield
    times.peaks[form] = max(times.peaks.get(form, 0), torch.cuda.max_memory_allocated(policy.device))


def _figures(policy: VlaPolicy, stage: StageName, times: Times) -> list[Figure]:
    """Those of the language stage bear no name of a stage."""
    suffix = "" if stage == "language" else f"_{stage}"
    median = {form: float(np.median(values)) for form, values in times.seconds.items()}
    ratios = np.array(times.seconds["plain"]) / np.array(times.seconds["ours"])
    done = {form: sum(count.values()) for form, count in times.counts.items()}
    worst = max(
        float((a - b).norm() / b.norm().clamp(min=1e-12))
        for a, b in zip(times.gradients["ours"], times.gradients["plain"], strict=True)
    )
    n = len(ratios)
    low, high = (round(float(np.percentile(ratios, q)), 3) for q in (2.5, 97.5))
    ratio = round(median["plain"] / median["ours"], 3)
    found = [
        Figure(f"step_seconds_ratio{suffix}", ratio, "ratio", n, low, high),
        Figure(f"step_seconds_plain{suffix}", round(median["plain"], 4), "s", n),
        Figure(f"step_seconds_ours{suffix}", round(median["ours"], 4), "s", n),
        Figure(f"block_tokens_plain{suffix}", done["plain"], "count"),
        Figure(f"block_tokens_ours{suffix}", done["ours"], "count"),
        Figure(f"blocks_saved_share{suffix}", round(1 - done["ours"] / done["plain"], 4), "ratio"),
        Figure(f"gradient_difference{suffix}", worst, "ratio"),
    ]
    weights = bytes_of(policy.model)
    for form, peak in times.peaks.items():
        found.append(Figure(f"gpu_peak_mb_{form}{suffix}", round(peak / 1e6, 1), "MB"))
        found.append(Figure(f"gpu_over_weights_ratio_{form}{suffix}", round(peak / weights, 3), "ratio"))
    return found


def _bench(policy: VlaPolicy, settings: Settings, stage: StageName) -> tuple[Workbench, list[Any], list[str]]:
    """The policy under edit, the factors of a stage, and the layers that have them."""
    generator = np.random.default_rng(settings.seed)
    first, second = settings.instructions
    data = EditData(
        forget=_frames(policy, first, settings.frames, generator),
        retain=_frames(policy, second, settings.frames, generator),
        boundary=_frames(policy, second, settings.frames, generator),
        counterfactual=_frames(policy, first, settings.frames, generator),
    )
    parameters = settings.parameters.model_copy(update={"evaluation_frames": 8})
    method = VlaForget(parameters if policy.codec.ordered else parameters.token_by_token())
    edit = EditSettings(method, Gates(), settings.seed, {})
    bench = prepare(policy, data, edit, Guard(1e9, 1e9))
    count = settings.blocks if stage == "language" else parameters.top_k(stage)
    names = [layer.name for layer in bench.layers[stage]][-count:]
    modules = bench.modules(names)
    bench.adapter.add(modules, settings.seed)
    return bench, bench.adapter.train(modules), names


def _frames(policy: VlaPolicy, text: str, count: int, generator: np.random.Generator) -> FrameSet:
    images = generator.integers(0, 256, (count, *policy.config.view_shape), dtype=np.uint8)
    dims, chunk = len(policy.normalisation.q01), policy.config.chunk
    steps = generator.uniform(-0.4, 0.4, (count, dims)) * policy.codec.span[:dims]
    # The same action throughout a chunk: noise over time would be no motion.
    actions = policy.codec.hold + np.tile(steps, chunk)
    episodes = np.array([f"{text}-{row % 8}" for row in range(count)])
    told = policy.config.state
    states = None if told is None else np.zeros((count, len(told.low)))
    return FrameSet(images, (text,) * count, actions.astype(np.float32), episodes, states=states)


class PlainView(View):
    """A view whose pass is the policy's own, from the pixels."""

    @cached_property
    def output(self) -> Output:
        """Logits at the positions that predict actions, of all that were computed."""
        return Output(None, None, _full_pass(self.bank, self.rows))


class PlainStep(Step):
    """A step that caches nothing."""

    def _view(self, name: str) -> View:
        return PlainView(self.banks[name], self.rows[name])


def _full_pass(bank: Bank, rows: np.ndarray) -> Tensor:
    """(N, A, V) logits."""
    policy, index = bank.policy, torch.from_numpy(rows)
    pixels = pixel_values(bank.frames.images[rows], policy.config, policy.device)
    ids, positions, states = bank.told(index)
    # Nothing but padding stands behind an action: what is masked would not be looked at anyway.
    mask, tokens = torch.ones_like(ids), bank.bins[index]
    return policy.action_logits(Batch(pixels, ids, mask, tokens, positions, bank.labelled[index], states))


@torch.no_grad()
def _teacher(bench: Workbench, batch: dict[str, np.ndarray]) -> None:
    """One pass of the original policy over the batches, as a form without a cache needs it."""
    with bench.adapter.detached():
        for name, rows in batch.items():
            _full_pass(bench.banks[name], rows)


@contextmanager
def counted(policy: VlaPolicy, bench: Workbench) -> Iterator[Counter[str]]:
    """Counts evaluations of transformer blocks inside, in tokens through a block's MLP, by component."""
    count: Counter[str] = Counter()
    hooks = []
    for stage in ("visual", "language"):
        for layer in bench.layers[stage]:
            module: Any = policy.model.get_submodule(layer.name)

            def hook(_: torch.nn.Module, inputs: Sequence[Any], output: Any, stage: str = stage) -> None:
                count[stage] += inputs[0].shape[0] * inputs[0].shape[1]

            hooks.append(module.mlp.register_forward_hook(hook))
    try:
        yield count
    finally:
        for handle in hooks:
            handle.remove()


def _wait(policy: VlaPolicy) -> None:
    if policy.device.type == "cuda":
        torch.cuda.synchronize()
