"""A policy as the rest of the package sees it: images and instructions in, actions in robot units out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from vlaforget_ros.errors import ErrorCode, PolicyError, did_you_mean
from vlaforget_ros.policy import checkpoint
from vlaforget_ros.policy.actions import ActionCodec
from vlaforget_ros.policy.config import PolicyConfig
from vlaforget_ros.policy.decoding import Wrap
from vlaforget_ros.policy.forms import codec_of, form_of
from vlaforget_ros.policy.graphs import Graphs, has_hooks
from vlaforget_ros.policy.images import check_observation, pixel_values
from vlaforget_ros.policy.model import OpenVla
from vlaforget_ros.policy.weight_only import Weights, shared_parts


@dataclass(frozen=True)
class Observation:
    """What a policy is asked about, as in :meth:`VlaPolicy.act`."""

    image: np.ndarray
    instruction: str
    state: np.ndarray | None = None


@dataclass(frozen=True)
class Prediction:
    """One control tick's answer.

    Args:
        action: (A,) float32 in robot units, all control ticks of a chunk; the hold action when ``fault`` is set.
        tokens: the A tokens as generated, or the bins of a continuous action as tokens.
        fault: 0, or an :class:`ErrorCode`.
    """

    action: np.ndarray
    tokens: tuple[int, ...]
    fault: int = 0


@dataclass(frozen=True)
class Batch:
    """Model input for teacher forcing.

    Args:
        pixel_values: (N, 3 * towers, S, S).
        input_ids: (N, L) prompt and action tokens, padded on the right.
        attention_mask: (N, L), 0 on padding.
        action_tokens: (N, A) the recorded actions as token ids.
        action_positions: (N, A) index into the model's output positions (patches + L) whose logits predict each.
        labelled: (N, A) which of them belong to the action; where actions differ in length, the last one is repeated.
        states: (N, P) the robot's states as the network is told them; None where they are no input of their own.
    """

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    action_tokens: Tensor
    action_positions: Tensor
    labelled: Tensor
    states: Tensor | None = None


@dataclass(frozen=True)
class EditableLayer:
    """A layer the staged edit may choose, with its linear modules' full names."""

    name: str
    modules: tuple[str, ...]


class VlaPolicy:
    """An OpenVLA network with its tokenizer and action codec.

    Args:
        model: the network.
        tokenizer: its tokenizer.
        base_digest: digest of the checkpoint it came from.
        unnorm_key: which entry of ``norm_stats`` to use; required when there are several.
        checked_tokens: leading tokens of an action that are looked for in the whole vocabulary, so that one which is no
            action becomes a fault; the others are looked for among the actions alone.
    """

    def __init__(
        self,
        model: OpenVla,
        tokenizer: Tokenizer,
        base_digest: str,
        unnorm_key: str | None = None,
        checked_tokens: int = 1,
    ) -> None:
        self.model = model
        self.config: PolicyConfig = model.config
        self.base_digest = base_digest
        self._tokenizer = tokenizer
        self._settings = (unnorm_key, checked_tokens)
        self._pad_id = int(self.config.language["pad_token_id"])
        self.normalisation = self.config.norm_stats[_unnorm_key(self.config, unnorm_key)]
        self.codec: ActionCodec = codec_of(self.config, self.normalisation, tokenizer)
        self._form = form_of(model, self.codec, tokenizer, checked_tokens)
        self._run = Graphs(model, self._form.run) if self._form.recordable else self._form.run

    @classmethod
    def load(
        cls,
        directory: Path,
        device: str = "cpu",
        unnorm_key: str | None = None,
        checked_tokens: int = 1,
        weights: Weights = "stored",
    ) -> VlaPolicy:
        """Read a checkpoint folder.

        Args:
            directory: of the checkpoint.
            device: where to.
            unnorm_key: as of the class.
            checked_tokens: as of the class.
            weights: how those of the language model are held; rounded ones serve, and are never edited.

        Raises:
            PolicyError: 207 for an unusable folder, 208 for weights that cannot be held so.
        """
        model, tokenizer = checkpoint.load(directory, device, weights=weights)
        return cls(model, tokenizer, checkpoint.digest(directory), unnorm_key, checked_tokens)

    def twin(self, recorded: bool = True) -> VlaPolicy:
        """A second policy on the very same weights: modules of its own, no tensor of its own.

        Adapters of one of the two do not touch the other. Make it before any are attached: they would be copied.

        Args:
            recorded: replay inferences as CUDA graphs where the form allows it.
        """
        if has_hooks(self.model):
            raise RuntimeError("adapters are attached to this policy already")
        kept = [*shared_parts(self.model), self.model.shared]
        model = copy.deepcopy(self.model, {id(part): part for part in kept})
        twin = VlaPolicy(model, self._tokenizer, self.base_digest, *self._settings)
        if not recorded:
            twin._run = twin._form.run
        return twin

    def rewrite(self, wrap: Wrap | None) -> None:
        """Serve with other functions that do the same, as ``wrap`` makes them of the network's; None: with its own."""
        self._form.rewrite(wrap)

    def rehearse(self, length: int) -> None:
        """Call each of these functions as serving would, for a made-up prompt of ``length`` tokens."""
        config = self.config
        pixels = pixel_values(np.zeros((1, *config.view_shape), dtype=np.uint8), config, self.device)
        word = 1 if self._pad_id != 1 else 2
        ids = torch.full((1, length), word, device=self.device)
        state = config.zero_state
        scaled = self._form.scaled(None if state is None else state[None])
        self._form.rehearse(*(pixels, ids) if scaled is None else (pixels, ids, scaled))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def tokenizer(self) -> Tokenizer:
        """The text tokenizer."""
        return self._tokenizer

    def hold_action(self, state: np.ndarray | None = None) -> np.ndarray:
        """(A,) the action that keeps the arm where it is, as long as any other; see :meth:`hold_step`."""
        return np.tile(self.hold_step(state), self.config.chunk)

    def hold_step(self, state: np.ndarray | None = None) -> np.ndarray:
        """(D,) what keeps the arm where it is for one control tick.

        Args:
            state: (P,) of the robot. Where actions are positions, that is where to stay; without a whole and finite one
                there is no such action, and the result is empty. Zeros would be a place to go to.
        """
        if self.normalisation.kind == "motion":
            return np.array(self.normalisation.hold, dtype=np.float32)
        told = np.zeros(0, np.float32) if state is None else np.asarray(state, dtype=np.float32)
        whole = told.shape == (len(self.normalisation.q01),) and bool(np.all(np.isfinite(told)))
        return told if whole else np.zeros(0, np.float32)

    def steps(self, action: np.ndarray) -> np.ndarray:
        """(chunk, A) the control ticks of an action, one after the other."""
        return self.codec.steps(action)

    def check_instruction(self, instruction: str) -> None:
        """Raises PolicyError 206 for an instruction this policy cannot read."""
        self._form.prompt(instruction, None)

    def act(self, image: np.ndarray, instruction: str, state: np.ndarray | None = None) -> Prediction:
        """The action for one observation.

        Args:
            image: (H, W, 3) uint8 RGB, or (images, H, W, 3) where the policy looks through several cameras.
            instruction: what to do.
            state: (P,) of the robot, where the policy is told it.

        Raises:
            PolicyError: 206 for an unknown instruction, 209 for a bad image, 208 for a bad state. A token that is no
                action is no exception but a prediction with fault 202 and the hold action.
        """
        check_observation(image, state, self.config)
        states = None if state is None else np.asarray(state, dtype=np.float64)[None]
        return self.act_batch(image[None], [instruction], states)[0]

    def act_together(
        self, asked: Sequence[Observation], entering: Callable[[Sequence[int]], None]
    ) -> list[Prediction]:
        """As :meth:`act` for several robots at once; their images may differ in size.

        Args:
            asked: one observation of each.
            entering: called before each forward pass with the indices of the observations that share it, in its order:
                what each needs of its own, such as an adapter, is given to it there.

        Raises:
            PolicyError: as :meth:`act`, before anything is computed.
        """
        for one in asked:
            check_observation(one.image, one.state, self.config)
        told = [one.state for one in asked if one.state is not None]
        states = np.stack([np.asarray(state, dtype=np.float64) for state in told]) if told else None
        prompts = self._prompts([one.instruction for one in asked], states)
        pixels = torch.cat([pixel_values(one.image[None], self.config, self.device) for one in asked])
        return self._answered(pixels, prompts, states, entering)

    def act_batch(
        self, images: np.ndarray, instructions: Sequence[str], states: np.ndarray | None = None
    ) -> list[Prediction]:
        """As :meth:`act` for N observations, which share forward passes as far as the form of the policy allows."""
        prompts = self._prompts(instructions, states)
        return self._answered(pixel_values(images, self.config, self.device), prompts, states)

    def _answered(
        self,
        pixels: Tensor,
        prompts: Sequence[tuple[int, ...]],
        states: np.ndarray | None,
        entering: Callable[[Sequence[int]], None] | None = None,
    ) -> list[Prediction]:
        scaled = self._form.scaled(states)
        found: dict[int, Prediction] = {}
        for rows in self._together(prompts):
            longest = max(len(prompts[i]) for i in rows)
            padded = [[*prompts[i], *[self._pad_id] * (longest - len(prompts[i]))] for i in rows]
            ids = torch.tensor(padded, device=self.device)
            inputs = (pixels[rows], ids) if scaled is None else (pixels[rows], ids, scaled[rows])
            if entering is not None:
                entering(rows)
            answers = self._run(*inputs).cpu().numpy()
            told = [None if states is None else states[i] for i in rows]
            found.update(
                {i: self._prediction(*answer) for i, *answer in zip(rows, answers, told, strict=True)}
            )
        return [found[i] for i in range(len(prompts))]

    def _together(self, prompts: Sequence[tuple[int, ...]]) -> list[list[int]]:
        """Which observations share a forward pass: those with prompts of one length, where the form asks for that."""
        everything = range(len(prompts))
        if not self._form.recordable:
            return [list(everything)]
        lengths = sorted({len(prompt) for prompt in prompts})
        return [[i for i in everything if len(prompts[i]) == length] for length in lengths]

    def encode(
        self,
        images: np.ndarray,
        instructions: Sequence[str],
        actions: np.ndarray,
        states: np.ndarray | None = None,
    ) -> Batch:
        """Teacher-forcing input for N images and states, as in :meth:`act`, and (N, A) actions in robot units."""
        prompts = self._prompts(instructions, states)
        tokens = self.codec.encode(actions)
        labelled = self.codec.labelled(tokens)
        tails = [self._form.tail(row) for row in tokens]
        longest = max(len(prompt) + len(tail) for prompt, tail in zip(prompts, tails, strict=True))
        ids = np.full((len(prompts), longest), self._pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        positions = np.empty(tokens.shape, dtype=np.int64)
        for row, (prompt, tail) in enumerate(zip(prompts, tails, strict=True)):
            end = len(prompt) + len(tail)
            ids[row, :end] = [*prompt, *tail]
            mask[row, :end] = 1
            places = np.minimum(np.arange(tokens.shape[1]), labelled[row].sum() - 1)
            positions[row] = self.config.image_tokens + len(prompt) - 1 + places
        place = self.device
        return Batch(
            pixel_values(images, self.config, place),
            torch.from_numpy(ids).to(place),
            torch.from_numpy(mask).to(place),
            torch.from_numpy(tokens).to(place),
            torch.from_numpy(positions).to(place),
            torch.from_numpy(labelled).to(place),
            self._form.scaled(states),
        )

    def log_probs(self, logits: Tensor) -> Tensor:
        """(N, A, B) log-probabilities of the bins, lowest first, from logits as :meth:`action_logits` gives them."""
        return self._form.log_probs(logits)

    def action_logits(self, batch: Batch) -> Tensor:
        """Logits (N, A, vocabulary or bins) that predict each number of the recorded action."""
        return self._form.logits(
            batch.pixel_values, batch.input_ids, batch.attention_mask, batch.action_positions, batch.states
        )

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Visual (N, patches, vision_dim) and projected (N, patches, D) features of model input pixels."""
        visual = self.model.vision_backbone(pixels)
        return visual, self.model.projector(visual)

    def components(self) -> dict[str, list[EditableLayer]]:
        """The layers a staged edit may choose from, in network order: visual, projector, language.

        Blocks behind the feature output get no gradient and are left out; convolutions are never edited.
        """
        names = ("vision_backbone.featurizer", "vision_backbone.fused_featurizer")
        visual = [
            _layer(f"{name}.blocks.{index}", tower.blocks[index])
            for name, tower in zip(names, self.model.vision_towers, strict=False)
            for index in range(tower.used_blocks)
        ]
        projector = [
            EditableLayer(f"projector.{n}", (f"projector.{n}",))
            for n, _ in self.model.projector.named_children()
        ]
        language = [
            _layer(f"language_model.model.layers.{index}", block)
            for index, block in enumerate(self.model.language_model.model.layers)
        ]
        return {"visual": visual, "projector": projector, "language": language}

    def _prompts(self, instructions: Sequence[str], states: np.ndarray | None) -> list[tuple[int, ...]]:
        if states is None and self.config.fast is not None:
            raise PolicyError(
                ErrorCode.POLICY_BAD_PARAMETER,
                "state of the robot",
                value="none",
                limit="a state for each observation: it is part of the prompt",
            )
        told = [None] * len(instructions) if states is None else list(states)
        return [self._form.prompt(text, state) for text, state in zip(instructions, told, strict=True)]

    def _prediction(self, answer: np.ndarray, state: np.ndarray | None) -> Prediction:
        tokens = self._form.tokens(answer)
        try:
            return Prediction(self._form.action(answer), tokens)
        except PolicyError as error:
            return Prediction(self.hold_action(state), tokens, int(error.code))


def _layer(name: str, block: nn.Module) -> EditableLayer:
    linear = [inner for inner, module in block.named_modules() if isinstance(module, nn.Linear)]
    return EditableLayer(name, tuple(f"{name}.{inner}" for inner in linear))


def _unnorm_key(config: PolicyConfig, key: str | None) -> str:
    if key is None and len(config.norm_stats) == 1:
        return next(iter(config.norm_stats))
    if key is None or key not in config.norm_stats:
        raise PolicyError(
            ErrorCode.POLICY_BAD_PARAMETER,
            "unnorm_key must name one of the data sets",
            value=key,
            limit=", ".join(config.norm_stats),
            remedy=did_you_mean(key or "", config.norm_stats),
        )
    return key
