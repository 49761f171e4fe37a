"""A pi0-FAST checkpoint in lerobot's layout with random weights: for tests, speed and memory.

Its FAST tokenizer is fitted on smooth random chunks, its text tokenizer has the form of PaliGemma's: bytes where a
character is unknown, digits one by one, and the words for places and segments as the last ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.fft import dct
from tokenizers import ByteLevelBPETokenizer, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from torch import Tensor

from vlaforget_ros.adapters.lerobot_names import checkpoint_name
from vlaforget_ros.policy.config import ActionNormalisation, FastConfig, PolicyConfig, ProprioNormalisation
from vlaforget_ros.policy.options import set_options
from vlaforget_ros.policy.pi0 import HEAD, Pi0Fast
from vlaforget_ros.policy.pi0_configs import (
    LOCATIONS,
    SEGMENTS,
    SKIPPED,
    SMALL_VOCABULARY,
    VOCABULARY,
    pi0_fast_config,
    pi0_fast_small_config,
)
from vlaforget_ros.policy.pi0_files import (
    FAST_SETTINGS,
    FAST_TOKENIZER,
    POSTPROCESSOR,
    PREPROCESSOR,
    TYPE,
)
from vlaforget_ros.policy.prompt import GEMMA_BOS

Size = Literal["minimal", "small", "full"]
# Words of the text tokenizer; 0: as few as it can do with.
_WORDS: dict[Size, int] = {"minimal": 0, "small": SMALL_VOCABULARY, "full": VOCABULARY}
_SCALE = 10.0
_FAST_TOKENS = 512
_CHUNKS = 400
# So that random weights choose FAST tokens, as a trained policy does.
_ACTION_GAIN = 8.0


@dataclass(frozen=True)
class Robot:
    """Sizes of the robot that the random policy is for.

    Args:
        cameras: how many.
        state: numbers of its state.
        dims: numbers of one control tick's action.
        chunk: control ticks of an answer.
        kind: of its actions.
        bound: its actions lie between this and its negative.
    """

    cameras: int = 1
    state: int = 8
    dims: int = 7
    chunk: int = 8
    kind: Literal["motion", "position"] = "motion"
    bound: float = 0.5


def write(
    directory: Path,
    instructions: tuple[str, ...],
    robot: Robot | None = None,
    size: Size = "minimal",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> PolicyConfig:
    """Write the files.

    Args:
        directory: gets them.
        instructions: that the text tokenizer is fitted on; it can write all others, too.
        robot: sizes; the default's if None.
        size: every part as small as can be, small, or PaliGemma-3B.
        dtype: of the weights.
        device: where they are drawn.
        seed: of the weights.

    Returns:
        the configuration; its name is that of a size, not of the folder.
    """
    robot = robot or Robot()
    (directory / FAST_TOKENIZER).parent.mkdir(parents=True, exist_ok=True)
    bpe, lowest = fitted(robot, seed)
    text = text_tokenizer(instructions, _WORDS[size])
    config = _configuration(robot, size, bpe, lowest, text.get_vocab_size())
    text.save(str(directory / "tokenizer.json"))
    bpe.save(str(directory / FAST_TOKENIZER))
    (directory / FAST_SETTINGS).write_text(
        json.dumps({"scale": _SCALE, "vocab_size": bpe.get_vocab_size(), "min_token": lowest})
    )
    (directory / "config.json").write_text(json.dumps(_config(config, robot), indent=1))
    _write_processors(directory, robot)
    set_options(directory, actions=robot.kind, heads=[config.featurizer.heads])
    save_file(_weights(config, dtype, device, seed), directory / "model.safetensors")
    return config


def _configuration(robot: Robot, size: Size, bpe: Tokenizer, lowest: int, vocabulary: int) -> PolicyConfig:
    statistics = ActionNormalisation(
        names=tuple(f"action_{place}" for place in range(robot.dims)),
        units=("",) * robot.dims,
        q01=(-robot.bound,) * robot.dims,
        q99=(robot.bound,) * robot.dims,
        mask=(True,) * robot.dims,
        hold=(0.0,) * robot.dims,
    )
    bounds = ProprioNormalisation(
        low=(-1.0,) * robot.state, high=(1.0,) * robot.state, mask=(True,) * robot.state
    )
    fast = FastConfig(
        chunk=robot.chunk,
        images=robot.cameras,
        proprio=bounds,
        state_slots=robot.state,
        scale=_SCALE,
        lowest=lowest,
        bpe=bpe.to_str(),
        action_tokens=256 if size == "full" else 48,
    )
    count = bpe.get_vocab_size()
    config = (
        pi0_fast_config(statistics, fast, count)
        if size == "full"
        else pi0_fast_small_config(statistics, fast, count, vocabulary, minimal=size == "minimal")
    )
    if size == "minimal":
        return config
    # Two tables, as lerobot trains: so that random weights can be made to choose FAST tokens.
    return config.model_copy(update={"language": {**config.language, "tie_word_embeddings": False}})


def fitted(robot: Robot, seed: int = 0) -> tuple[Tokenizer, int]:
    """A FAST tokenizer for smooth random chunks, and its lowest coefficient; fitted as upstream fits its own."""
    rng = np.random.default_rng(seed)
    times = np.linspace(0.0, 1.0, robot.chunk)[None, :, None]
    shape = (_CHUNKS, 1, robot.dims)
    chunks = rng.uniform(0, 1, shape) * np.sin(
        times * rng.uniform(0, 6, shape) + rng.uniform(0, 2 * np.pi, shape)
    )
    numbers = np.rint(dct(chunks, axis=1, norm="ortho") * _SCALE).astype(np.int64).reshape(_CHUNKS, -1)
    # Room for chunks that are a little larger than those it is fitted on.
    lowest, highest = int(numbers.min()) - 10, int(numbers.max()) + 10
    bytewise = ByteLevelBPETokenizer()
    trainer = BpeTrainer(
        vocab_size=_FAST_TOKENS,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=10000,
    )
    inner: Tokenizer = bytewise._tokenizer
    inner.train_from_iterator(("".join(map(chr, row - lowest)) for row in numbers), trainer=trainer)
    if highest - lowest > 0xD7FF:
        raise ValueError(f"coefficients from {lowest} to {highest} are no characters")
    return inner, lowest


def text_tokenizer(instructions: Iterable[str], size: int = 0) -> Tokenizer:
    """A text tokenizer of PaliGemma's form.

    Args:
        instructions: it is fitted on.
        size: tokens it has in all, filled up with words that nothing has; 0: as many as it needs.
    """
    specials = ["<pad>", "<eos>", GEMMA_BOS, "<unk>"]
    corpus = [f"Task: {text}, State: 0 1 2 3 4 5 6 7 8 9 -1;\nAction: |" for text in instructions]
    fitting = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    fitting.normalizer = normalizers.Replace(" ", "▁")
    # Words with the space before them; digits, and what separates fields, one by one.
    fitting.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^\\W\\d_▁]+|."), behavior="isolated")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = BpeTrainer(vocab_size=1000, show_progress=False, special_tokens=[*specials, *bytes_])
    fitting.train_from_iterator(corpus, trainer=trainer)
    model = json.loads(fitting.to_str())["model"]
    words = sorted(model["vocab"], key=model["vocab"].__getitem__)
    last = [f"<loc{i:04}>" for i in range(LOCATIONS)] + [f"<seg{i:03}>" for i in range(SEGMENTS)]
    spare = max(0, size - len(words) - len(last))
    words += [f"<spare{i}>" for i in range(spare)] + last
    merges = [tuple(pair) for pair in model["merges"]]
    made = Tokenizer(
        models.BPE(
            {word: i for i, word in enumerate(words)},
            merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    made.normalizer, made.pre_tokenizer = fitting.normalizer, fitting.pre_tokenizer
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens(specials)
    return made


def _weights(config: PolicyConfig, dtype: torch.dtype, device: str, seed: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        model = Pi0Fast(config)
    generator = torch.Generator(device).manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name in model.shared:
            continue
        if tensor.ndim == 1:
            # Gemma's norms multiply by one more than their weight.
            ones = name.endswith("weight") and name.startswith("vision_backbone")
            drawn = (torch.ones if ones else torch.zeros)(tensor.shape)
        else:
            std = 1.0 / tensor.shape[1] ** 0.5 if "embed_tokens" in name else 1.0 / tensor[0].numel() ** 0.5
            drawn = std * torch.randn(tensor.shape, generator=generator, device=generator.device)
            if name == HEAD:
                drawn[config.action_vocab_end - config.bins : config.action_vocab_end] *= _ACTION_GAIN
        found[checkpoint_name(name)] = drawn.to(dtype).cpu().contiguous()
    return found


def _config(config: PolicyConfig, robot: Robot) -> dict[str, object]:
    size = config.featurizer.image_size
    cameras = {
        f"observation.images.camera_{i}": {"type": "VISUAL", "shape": [3, size, size]}
        for i in range(robot.cameras)
    }
    return {
        "type": TYPE,
        "input_features": {**cameras, "observation.state": {"type": "STATE", "shape": [robot.state]}},
        "output_features": {"action": {"type": "ACTION", "shape": [robot.dims]}},
        "chunk_size": robot.chunk,
        "n_action_steps": robot.chunk,
        "image_resolution": [size, size],
        "max_decoding_steps": config.fast.action_tokens if config.fast else 0,
        "fast_skip_tokens": SKIPPED,
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": "QUANTILES", "ACTION": "QUANTILES"},
    }


def _write_processors(directory: Path, robot: Robot) -> None:
    statistics = {
        "observation.state.q01": torch.full((robot.state,), -1.0),
        "observation.state.q99": torch.full((robot.state,), 1.0),
        "action.q01": torch.full((robot.dims,), -robot.bound),
        "action.q99": torch.full((robot.dims,), robot.bound),
    }
    for file, step in ((PREPROCESSOR, "normalizer_processor"), (POSTPROCESSOR, "unnormalizer_processor")):
        state = f"{file.removesuffix('.json')}_step_0_{step}.safetensors"
        save_file(statistics, directory / state)
        steps = [{"registry_name": step, "config": {}, "state_file": state}]
        (directory / file).write_text(json.dumps({"name": file.removesuffix(".json"), "steps": steps}))
