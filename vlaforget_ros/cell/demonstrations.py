"""Demonstrations for behaviour cloning: scripted experts in the simulated cell, with noise bursts."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlaforget_ros.cell.recipe import Entry
from vlaforget_ros.cell.situations import SITUATIONS, Situation
from vlaforget_ros.episodes.dataset import FrameSet
from vlaforget_ros.errors import CellError, ErrorCode
from vlaforget_ros.policy import checkpoint

if TYPE_CHECKING:
    from vlaforget_ros.cell.metaworld_cell import MetaWorldCell
    from vlaforget_ros.policy.policy import VlaPolicy

# Demonstration seeds start here; evaluation and recording seeds stay below it, so no episode is ever shared.
FIRST_SEED = 1_000_000
PILOTED_TICKS = 60
"""A piloted episode ends here: a policy that is lost for good shows nothing new."""


@dataclass(frozen=True)
class Demonstrations:
    """A training set.

    Args:
        images: (N, H, W, 3) uint8.
        actions: (N, A) float32, the demonstrator's own action (noise is executed, never recorded).
        instructions: the distinct instructions.
        instruction_index: (N,) index into ``instructions``.
        planted: (N,) bool, frames of planted behaviours.
        made: how it was made, for the recipe: seed, pilot's digest, entries; one for each :func:`generate`.
    """

    images: np.ndarray
    actions: np.ndarray
    instructions: tuple[str, ...]
    instruction_index: np.ndarray
    planted: np.ndarray
    made: tuple[dict[str, Any], ...] = ()

    def save(self, path: Path) -> None:
        """Write as an uncompressed .npz."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez(
                file,
                images=self.images,
                actions=self.actions,
                instructions=np.array(self.instructions),
                instruction_index=self.instruction_index,
                planted=self.planted,
                made=np.array(json.dumps(self.made)),
            )

    @classmethod
    def load(cls, path: Path) -> Demonstrations:
        """Read what :meth:`save` wrote. Raises CellError 604 for another file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(
                    file["images"],
                    file["actions"],
                    tuple(str(text) for text in file["instructions"]),
                    file["instruction_index"],
                    file["planted"],
                    tuple(json.loads(str(file["made"]))) if "made" in file else (),
                )
        except (OSError, ValueError, KeyError) as error:
            raise CellError(
                ErrorCode.FILES_MISSING,
                f"no demonstrations: {error}",
                value=str(path),
                limit="a file that `vlaforget demonstrate` wrote",
                remedy="make it with `vlaforget demonstrate`",
            ) from error

    def joined(self, other: Demonstrations) -> Demonstrations:
        """Both sets as one."""
        instructions = tuple(sorted({*self.instructions, *other.instructions}))
        index = [
            np.array([instructions.index(text) for text in side.instructions])[side.instruction_index]
            for side in (self, other)
        ]
        return Demonstrations(
            np.concatenate([self.images, other.images]),
            np.concatenate([self.actions, other.actions]),
            instructions,
            np.concatenate(index),
            np.concatenate([self.planted, other.planted]),
            (*self.made, *other.made),
        )

    def without_planted(self) -> Demonstrations:
        """The never-saw training set: every frame of a planted behaviour left out."""
        keep = ~self.planted
        made = tuple(
            {**part, "entries": [entry for entry in part["entries"] if not entry["planted"]]}
            for part in self.made
        )
        return Demonstrations(
            self.images[keep],
            self.actions[keep],
            self.instructions,
            self.instruction_index[keep],
            self.planted[keep],
            made,
        )

    def frames(self) -> FrameSet:
        """What a policy is cloned from: each frame stands alone."""
        texts = tuple(self.instructions[i] for i in self.instruction_index)
        return FrameSet(self.images, texts, self.actions, origin="demonstrations")


def generate(
    entries: list[Entry],
    seed: int = 0,
    image_size: int = 64,
    processes: int = 2,
    progress: Callable[[int, int], None] | None = None,
    pilot: Path | None = None,
) -> Demonstrations:
    """Run the demonstrators and keep their successful episodes.

    With a ``pilot`` the checkpoint drives and the demonstrator only says what it would have done; every episode is
    kept then, up to ``PILOTED_TICKS``.

    Args:
        entries: the recipe.
        seed: shifts all episode seeds.
        image_size: camera image [px].
        processes: simulator processes side by side.
        progress: called with (episodes done, episodes in all).
        pilot: checkpoint folder, or None.
    """
    jobs = list(_jobs(entries, seed, image_size, pilot))
    results: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_demonstrate, job) for job in jobs]):
            index, images, actions = future.result()
            results[index] = (images, actions)
            if progress:
                progress(len(results), len(jobs))
    digest = checkpoint.digest(pilot) if pilot else ""
    made = {"seed": seed, "pilot": digest, "entries": [asdict(entry) for entry in entries]}
    return replace(_collect(jobs, results), made=(made,))


@dataclass(frozen=True)
class _Job:
    index: int
    entry: Entry
    seed: int
    image_size: int
    pilot: Path | None


def _jobs(entries: list[Entry], seed: int, image_size: int, pilot: Path | None) -> Iterator[_Job]:
    index = 0
    for entry in entries:
        for _ in range(entry.episodes):
            yield _Job(index, entry, FIRST_SEED + seed * 100_000 + index, image_size, pilot)
            index += 1


def _demonstrate(job: _Job) -> tuple[int, np.ndarray, np.ndarray]:
    from vlaforget_ros.cell.experts import DEMONSTRATORS
    from vlaforget_ros.cell.metaworld_cell import ACTION_LIMIT_M, MAX_TICKS, MetaWorldCell
    from vlaforget_ros.cell.metaworld_scenes import TASKS

    if job.image_size not in _cells:
        _cells[job.image_size] = MetaWorldCell(job.image_size)
    cell = _cells[job.image_size]
    rng = np.random.default_rng(job.seed)
    act = DEMONSTRATORS[job.entry.demonstrator]
    # A third of the episodes each without noise, with mild and with strong bursts.
    sigma = 0.0 if job.pilot else (0.0, 0.3, 0.6)[job.index % 3] * ACTION_LIMIT_M
    pilot = _policy(job.pilot) if job.pilot else None
    limit = PILOTED_TICKS if pilot else MAX_TICKS
    images, actions, burst = [], [], 0
    observation = cell.reset(job.entry.situation, job.seed)
    reached = False
    while not reached and observation.step < limit:
        action = act(cell, job.entry.task)
        images.append(observation.image)
        actions.append(action)
        if burst == 0 and sigma > 0 and rng.random() < 0.08:
            burst = int(rng.integers(3, 7))
            push = rng.normal(0.0, sigma, 3)
        executed = (
            action.copy() if pilot is None else pilot.act(observation.image, observation.instruction).action
        )
        if burst > 0:
            executed[:3] += push + rng.normal(0.0, 0.3 * sigma, 3)
            burst -= 1
        observation = cell.step(executed)
        reached = TASKS[job.entry.task].reached(cell.env)
    if not reached and pilot is None:
        images, actions = [], []
    shape = (0, job.image_size, job.image_size, 3)
    return (
        job.index,
        np.array(images, dtype=np.uint8) if images else np.zeros(shape, np.uint8),
        np.array(actions, dtype=np.float32).reshape(-1, 4),
    )


def _policy(folder: Path) -> VlaPolicy:
    import torch

    from vlaforget_ros.policy.policy import VlaPolicy

    if folder not in _pilots:
        torch.set_num_threads(1)
        _pilots[folder] = VlaPolicy.load(folder)
    return _pilots[folder]


# Cells of a simulator process by image size, kept between its episodes: loading a scene takes longer than an episode.
_cells: dict[int, MetaWorldCell] = {}
_pilots: dict[Path, VlaPolicy] = {}


def _collect(jobs: list[_Job], results: dict[int, tuple[np.ndarray, np.ndarray]]) -> Demonstrations:
    posed: list[Situation] = [SITUATIONS[job.entry.situation] for job in jobs]
    instructions = tuple(sorted({s.instruction for s in posed}))
    counts = [len(results[job.index][1]) for job in jobs]
    return Demonstrations(
        images=np.concatenate([results[job.index][0] for job in jobs]),
        actions=np.concatenate([results[job.index][1] for job in jobs]),
        instructions=instructions,
        instruction_index=np.repeat([instructions.index(s.instruction) for s in posed], counts).astype(
            np.int64
        ),
        planted=np.repeat([bool(job.entry.planted) for job in jobs], counts),
    )
