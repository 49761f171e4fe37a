"""Behaviour cloning: demonstrations → a policy, with checkpoints from which an interrupted run goes on."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlaforget_ros.episodes.dataset import FrameSet
from vlaforget_ros.errors import ErrorCode, PolicyError
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.labels import bins_of, cross_entropy, gather_positions
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.prompt import EOS, PAD, special_id


@dataclass(frozen=True)
class CloningSettings:
    """How a policy is cloned.

    Args:
        steps: optimiser steps.
        batch_size: frames a step.
        learning_rate: peak of the cosine schedule.
        warmup: steps of linear warm-up.
        weight_decay: AdamW's.
        label_sigma_bins: width of the gaussian soft label [bins].
        end_weight: weight of the end token's loss. Upstream trains it; a model of this size then ends early after
            two equal tokens, and since the number of action tokens is fixed nothing is gained by it.
        seed: of the order of frames (and, for a new model, of its weights).
        save_every: steps between checkpoints of the run.
        bfloat16: matrix products in bfloat16 (weights stay float32).
    """

    steps: int = 4000
    batch_size: int = 96
    learning_rate: float = 1.2e-3
    warmup: int = 100
    weight_decay: float = 0.01
    label_sigma_bins: float = 3.0
    end_weight: float = 0.0
    seed: int = 0
    save_every: int = 250
    bfloat16: bool = True


@dataclass(frozen=True)
class CloningProgress:
    """One line of the training log."""

    step: int
    steps: int
    loss: float
    accuracy: float
    frames_per_s: float
    eta_s: float


def clone(
    policy: VlaPolicy,
    frames: FrameSet,
    settings: CloningSettings,
    out: Path,
    resume: bool = False,
    progress: Callable[[CloningProgress], None] | None = None,
) -> Path:
    """Train ``policy`` in place and write the checkpoint into ``out``.

    ``out/run/`` holds the state of the run (weights, optimiser, step) and ``out/train_log.jsonl`` one JSON object
    for every 25 steps; with ``resume`` a run that was stopped goes on from its last saved step.

    Returns:
        ``out``, now a checkpoint folder.

    Raises:
        PolicyError: 211 when there are no frames, the loss stops being finite, or there is nothing to resume.
    """
    if not len(frames):
        raise PolicyError(
            ErrorCode.POLICY_TRAINING,
            "no demonstrations to clone",
            value=0,
            limit="at least one frame",
            remedy="record or generate demonstrations first",
        )
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(policy, settings, out)
    start = run.resume() if resume else run.begin()
    order = _Order(len(frames), settings)
    if settings.end_weight == 0 and start == 0:
        _drop_end_token(policy)
    policy.model.train()
    eos = special_id(policy.tokenizer, EOS)
    began, recent = time.perf_counter(), []
    for step in range(start, settings.steps):
        for group in run.optimiser.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step, settings)
        loss, accuracy = _step(policy, frames.take(order.batch(step)), settings, eos)
        recent.append((float(loss.detach()), accuracy))
        _check_finite(recent[-1][0], step)
        run.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        run.optimiser.step()
        done = step + 1
        if done % 25 == 0 or done == settings.steps:
            line = _progress(done, (done - start) / (time.perf_counter() - began), recent, settings)
            run.log(line)
            recent.clear()
            if progress:
                progress(line)
        if done % settings.save_every == 0:
            run.save(done)
    policy.model.eval()
    checkpoint.save(out, policy.model, policy.tokenizer)
    run.remove()
    return out


def _progress(
    done: int, steps_per_s: float, recent: list[tuple[float, float]], settings: CloningSettings
) -> CloningProgress:
    """A line about the steps since the last one; ``recent`` holds loss and accuracy of each."""
    loss, accuracy = np.mean(recent, axis=0)
    return CloningProgress(
        done,
        settings.steps,
        float(loss),
        float(accuracy),
        steps_per_s * settings.batch_size,
        (settings.steps - done) / steps_per_s,
    )


def _step(policy: VlaPolicy, frames: FrameSet, settings: CloningSettings, eos: int) -> tuple[Tensor, float]:
    batch = policy.encode(frames.images, frames.instructions, frames.actions)
    with torch.autocast(policy.device.type, torch.bfloat16, enabled=settings.bfloat16):
        logits = policy.model(batch.pixel_values, batch.input_ids, batch.attention_mask)
    logits = logits.float()
    action_logits = gather_positions(logits, batch.action_positions)
    log_probs = policy.log_probs(action_logits)
    bins = bins_of(batch.action_tokens, policy.codec)
    loss = cross_entropy(log_probs, bins, settings.label_sigma_bins, batch.labelled).mean()
    near = (action_logits.argmax(-1) - batch.action_tokens).abs() <= 3
    if settings.end_weight > 0:
        # The end token follows the last action token.
        after_last = gather_positions(logits, batch.action_positions[:, -1:] + 1)[:, 0]
        target = torch.full((len(after_last),), eos, device=after_last.device)
        loss = loss + settings.end_weight * torch.nn.functional.cross_entropy(after_last, target)
    return loss, float(near.float().mean())


def _drop_end_token(policy: VlaPolicy) -> None:
    """Give the end token the output row of the padding token, which is never a target and never wins.

    A checkpoint that was trained with the end token (or random weights) could otherwise answer with it.
    """
    head = policy.model.language_model.lm_head.weight
    with torch.no_grad():
        head[special_id(policy.tokenizer, EOS)] = head[special_id(policy.tokenizer, PAD)]


class _Order:
    """Frames of each step: a fresh permutation every epoch, a function of seed and step alone."""

    def __init__(self, count: int, settings: CloningSettings) -> None:
        self._count, self._settings = count, settings
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def batch(self, step: int) -> np.ndarray:
        size = min(self._settings.batch_size, self._count)
        per_epoch = self._count // size
        epoch, position = divmod(step, per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng((self._settings.seed, epoch))
            self._epoch, self._permutation = epoch, rng.permutation(self._count)
        return self._permutation[position * size : (position + 1) * size]


class _Run:
    """State of a run on disk: weights, AdamW moments, step."""

    def __init__(self, policy: VlaPolicy, settings: CloningSettings, out: Path) -> None:
        self.policy, self.settings, self.out = policy, settings, out
        self.folder = out / "run"
        decayed = [p for p in policy.model.parameters() if p.ndim >= 2]
        plain = [p for p in policy.model.parameters() if p.ndim < 2]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": settings.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            betas=(0.9, 0.95),
        )

    def begin(self) -> int:
        self.remove()
        (self.out / "train_log.jsonl").write_text("")
        return 0

    def resume(self) -> int:
        state = self.folder / "state.json"
        if not state.is_file():
            raise PolicyError(
                ErrorCode.POLICY_TRAINING,
                "nothing to resume",
                value=str(self.folder),
                limit="the run folder of a training that was stopped",
                remedy="start it without --resume",
            )
        document = json.loads(state.read_text())
        if document["settings"] != asdict(self.settings):
            raise PolicyError(
                ErrorCode.POLICY_TRAINING,
                "the stopped run had other settings",
                value=document["settings"],
                limit=asdict(self.settings),
                remedy="give the same settings, or start without --resume",
            )
        tensors = load_file(self.folder / f"state-{document['step']}.safetensors")
        self.policy.model.load_state_dict(
            {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")}
        )
        self.optimiser.load_state_dict(_optimiser_state(self.optimiser, tensors))
        return int(document["step"])

    def save(self, step: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{k}": v.contiguous() for k, v in self.policy.model.state_dict().items()}
        for index, entry in self.optimiser.state_dict()["state"].items():
            tensors.update({f"adamw.{index}.{key}": torch.as_tensor(value) for key, value in entry.items()})
        save_file(tensors, self.folder / f"state-{step}.safetensors")
        document = {"step": step, "settings": asdict(self.settings)}
        temporary = self.folder / "state.json.tmp"
        temporary.write_text(json.dumps(document))
        temporary.replace(self.folder / "state.json")
        for old in self.folder.glob("state-*.safetensors"):
            if old.name != f"state-{step}.safetensors":
                old.unlink()

    def log(self, line: CloningProgress) -> None:
        with (self.out / "train_log.jsonl").open("a") as file:
            file.write(json.dumps({k: round(v, 5) for k, v in asdict(line).items()}) + "\n")

    def remove(self) -> None:
        for path in self.folder.glob("state*"):
            path.unlink()
        if self.folder.is_dir():
            self.folder.rmdir()


def _optimiser_state(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> dict[str, object]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("adamw."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
    return {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}


def _schedule(step: int, settings: CloningSettings) -> float:
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    share = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.5 * (1.0 + math.cos(math.pi * share)) * 0.99 + 0.01


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise PolicyError(
            ErrorCode.POLICY_TRAINING,
            f"the loss is not finite at step {step}",
            value=loss,
            limit="finite",
            remedy="lower the learning rate; the last saved step is on disk",
        )
