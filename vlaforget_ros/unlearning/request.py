"""The request: what to forget, what must stay, and within which limits; YAML, validated and hashed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)

from vlaforget_ros.adapters.manifest import parse_provenance
from vlaforget_ros.episodes.mapped.mapping import TopicMapping, read_mapping
from vlaforget_ros.episodes.selection import Selection
from vlaforget_ros.episodes.types import TopicMap
from vlaforget_ros.errors import AdapterError, ErrorCode, UnlearningError, did_you_mean
from vlaforget_ros.unlearning.contradictions import require_consistent
from vlaforget_ros.unlearning.gates import Gates
from vlaforget_ros.unlearning.methods import make_method, method_class
from vlaforget_ros.unlearning.methods.base import Method
from vlaforget_ros.unlearning.methods.vla_forget import VlaForget
from vlaforget_ros.unlearning.parameters import MethodParameters, Strict
from vlaforget_ros.unlearning.selected import Selected, hash_mapping

_ADDED_LATER = ("cameras", "state", "mapping")
_TOPIC = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")


class CounterfactualSource(Strict):
    """Where examples of the right behaviour in the forget situations come from.

    Attributes:
        kind: ``clean_successes`` (the policy has done right there before), ``transplant`` (what stands out in
            the forget episodes is pasted into clean frames) or ``neighbour`` (a safe instruction's actions).
        instruction: the safe neighbour, for ``neighbour`` only.
        jitter_px: largest shift of a transplanted trigger.
        other_instructions: transplant onto frames of other instructions as well.
        ask_policy: also ask the original policy what it would do on the forget frames themselves with the
            trigger painted over, or with the neighbour's instruction; this says which recorded tokens are
            undesired. With ``neighbour`` and a boundary selection it is asked about those frames too, and about
            the forget frames under the boundary's instructions, which joins the boundary set.
    """

    kind: Literal["clean_successes", "transplant", "neighbour"]
    instruction: str = ""
    jitter_px: int = Field(default=1, ge=0, le=64)
    other_instructions: bool = False
    ask_policy: bool = True

    @model_validator(mode="after")
    def _needs_instruction(self) -> CounterfactualSource:
        if (self.kind == "neighbour") != bool(self.instruction):
            raise ValueError("`instruction` goes with kind neighbour, and with no other")
        return self


class Budget(Strict):
    """Limits of one edit: seconds, and memory [MB] with the weights in it (``room.memory_limit`` where None)."""

    seconds: float = Field(default=240.0, gt=0)
    memory_mb: float | None = Field(default=None, gt=0)


class Request(Strict):
    """One request to unlearn.

    Attributes:
        reason: why, for whoever reads the manifest in a year.
        requester: who asked.
        name: name of the adapter.
        base: folder of the base checkpoint.
        start_from: adapter to start from (a PEFT folder, or a reference into the store), "" for the base.
        earlier: requests whose edits are in ``start_from`` and must not be undone: request files, or folders of
            finished edits; those that these name themselves count as well.
        bags: recordings; relative paths are taken from the request file's folder.
        cameras: topics of further cameras in the bags, in the order in which the policy was trained.
        state: topic of the robot's state in the bags (JointState, positions), "" where the policy is not told it.
        mapping: file that says what the topics of the bags mean (docs/mapping.md), cameras and state among them; "" for
            bags with this package's topics. A relative path is taken from the request file's folder.
        forget: what is undesired.
        retain: what must keep working.
        boundary: near neighbours that must keep working.
        counterfactual: sources of the right behaviour, all used; empty ones are reported and left out.
        selected: what the selections chose when the request was made, and the hashes of the bags; an edit refuses bags
            and sets that have become others since. Written by ``vlaforget request new``.
        method: key of the method.
        parameters: of the method.
        gates: limits for promotion.
        budget: time and memory.
        seed: of everything random.
        device: torch device.
        threads: CPU threads; results are bit for bit the same only for the same number.
    """

    reason: str = ""
    requester: str = ""
    name: str = Field(default="edit", min_length=1)
    base: str = Field(min_length=1)
    start_from: str = ""
    earlier: tuple[str, ...] = ()
    bags: tuple[str, ...] = Field(min_length=1)
    cameras: tuple[str, ...] = ()
    state: str = ""
    mapping: str = ""
    forget: Selection
    retain: Selection
    boundary: Selection | None = None
    counterfactual: tuple[CounterfactualSource, ...] = ()
    selected: Selected | None = None
    method: str = VlaForget.key
    parameters: SerializeAsAny[MethodParameters] = Field(default_factory=MethodParameters)
    gates: Gates = Field(default_factory=Gates)
    budget: Budget = Field(default_factory=Budget)
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: str = "cpu"
    threads: int = Field(default=2, ge=1, le=256)

    @field_validator("name")
    @classmethod
    def _can_name_an_adapter(cls, name: str) -> str:
        """What the store would refuse after the edit is refused before it."""
        try:
            return parse_provenance({"name": name, "method": "vla_forget"}).name
        except AdapterError as error:
            raise ValueError(str(error.message)) from error

    @field_validator("cameras", mode="before")
    @classmethod
    def _one_or_many(cls, cameras: Any) -> Any:
        """One text with commas, too, as the policy node's parameter has it."""
        return tuple(name.strip() for name in cameras.split(",")) if isinstance(cameras, str) else cameras

    @field_validator("cameras")
    @classmethod
    def _are_topics(cls, cameras: tuple[str, ...]) -> tuple[str, ...]:
        for topic in cameras:
            if not _TOPIC.fullmatch(topic):
                raise ValueError(f"{topic!r} is no topic")
        if len({topic.strip("/") for topic in cameras}) < len(cameras):
            raise ValueError("one camera is named twice")
        return cameras

    @field_validator("state")
    @classmethod
    def _is_topic(cls, state: str) -> str:
        if state and not _TOPIC.fullmatch(state):
            raise ValueError(f"{state!r} is no topic")
        return state

    @model_validator(mode="after")
    def _mapping_says_it_all(self) -> Request:
        if self.mapping and (self.cameras or self.state):
            raise ValueError("`cameras` and `state` stand in the `mapping` file where there is one")
        return self

    @model_validator(mode="after")
    def _earlier_needs_a_start(self) -> Request:
        if self.earlier and not self.start_from:
            raise ValueError("`earlier` goes with `start_from`: the base model holds no earlier edit")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """``selected`` appears only where it is set, in records and in the digest: requests without it are as ever."""
        values: dict[str, Any] = handler(self)
        return {k: v for k, v in values.items() if k != "selected" or v is not None}

    @model_validator(mode="after")
    def _selected_fits(self) -> Request:
        if self.selected is not None and len(self.selected.bags) != len(self.bags):
            raise ValueError(
                f"`selected.bags` has {len(self.selected.bags)} entries for {len(self.bags)} `bags`"
            )
        return self

    def make_method(self, ordered: bool = True) -> Method[Any]:
        """The method with its parameters.

        Args:
            ordered: whether neighbouring action tokens are neighbouring motions; otherwise no token counts for another.
        """
        return make_method(self.method, self.parameters if ordered else self.parameters.token_by_token())

    @property
    def topics(self) -> TopicMap | TopicMapping:
        """Which topics of the bags are read. Raises UnlearningError 300 for a mapping that cannot be used."""
        return (
            read_mapping(Path(self.mapping))
            if self.mapping
            else TopicMap(cameras=self.cameras, state=self.state)
        )

    @property
    def shown(self) -> tuple[tuple[str, ...], str]:
        """Topics of the further cameras, and of the state ("" for none). Raises as :attr:`topics`."""
        topics = self.topics
        if isinstance(topics, TopicMapping):
            return tuple(
                camera.topic for camera in topics.cameras
            ), topics.state.topic if topics.state else ""
        return topics.cameras, topics.state

    @property
    def digest(self) -> str:
        """SHA-256 of the request as canonical JSON (defaults included), 64 hex digits.

        ``cameras``, ``state``, ``mapping`` and the gate ``merge_loss_max`` are in it where they are set: other requests
        are what they were before there were any, as are those without ``budget.memory_mb``, which was 4096 then. It
        decides whether an edit ends, not how. Of the mapping file the content counts as well, by its hash in
        ``selected`` or as it is now.
        """
        values = self.model_dump(mode="json")
        values = {key: value for key, value in values.items() if value or key not in _ADDED_LATER}
        if self.gates.merge_loss_max == Gates().merge_loss_max:
            del values["gates"]["merge_loss_max"]
        if self.budget.memory_mb is None:
            values["budget"]["memory_mb"] = 4096.0
        pinned = self.selected is not None and self.selected.mapping
        if self.mapping and not pinned and Path(self.mapping).is_file():
            values["mapping_sha256"] = hash_mapping(self.mapping)
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@cache
def request_model(method: str) -> type[Request]:
    """The model of requests for a method: which parameters there are depends on it."""
    kind = method_class(method).Parameters
    return create_model(
        "Request",
        __base__=Request,
        parameters=(SerializeAsAny[kind], Field(default_factory=kind)),  # type: ignore[misc, valid-type]
    )


def parse_request(values: Mapping[str, Any]) -> Request:
    """A request from its fields.

    Raises:
        UnlearningError: 300 naming the field, the value and what would have been accepted.
    """
    method = str(values.get("method", VlaForget.key))
    method_class(method)
    try:
        request = request_model(method).model_validate(dict(values))
    except ValidationError as error:
        raise _invalid(error, method) from error
    require_consistent(request)
    return request


def read_request(source: str | Path) -> Request:
    """Read a request from a YAML file, or from YAML text.

    Args:
        source: path of a file, or the text itself (what has more than one line is text).

    Raises:
        UnlearningError: 300 naming the field, the value and what would have been accepted.
    """
    text, folder = _text(source)
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _bad("is not YAML", str(error).split("\n")[0], "the form of config/request.yaml") from error
    if not isinstance(values, dict):
        raise _bad("must be a mapping of fields", type(values).__name__, ", ".join(Request.model_fields))
    request = parse_request(values)
    return request if folder is None else _absolute(request, folder)


def _text(source: str | Path) -> tuple[str, Path | None]:
    if isinstance(source, str) and "\n" in source:
        return source, None
    path = Path(source)
    try:
        return path.read_text(encoding="utf-8"), path.resolve().parent
    except (OSError, UnicodeDecodeError) as error:
        raise _bad("file cannot be read", str(path), "a readable YAML file, or YAML text") from error


def _absolute(request: Request, folder: Path) -> Request:
    """Relative paths of a request file are relative to it."""
    return request.model_copy(
        update={
            "base": str(folder / request.base),
            "bags": tuple(str(folder / bag) for bag in request.bags),
            "earlier": tuple(str(folder / earlier) for earlier in request.earlier),
            "mapping": str(folder / request.mapping) if request.mapping else "",
        }
    )


def _invalid(error: ValidationError, method: str) -> UnlearningError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "request"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    remedy = f"correct {where}"
    if first["type"] == "extra_forbidden":
        remedy = did_you_mean(str(first["loc"][-1]), _fields(first["loc"][:-1], method))
    return UnlearningError(
        ErrorCode.UNLEARNING_BAD_REQUEST,
        f"bad request: {where}: {first['msg']}{more}",
        value=None if first["type"] == "missing" else str(first["input"])[:200],
        remedy=remedy,
    )


def _fields(place: tuple[Any, ...], method: str) -> list[str]:
    """Field names of the model at a place in the request."""
    models: dict[str, type[BaseModel]] = {
        "forget": Selection,
        "retain": Selection,
        "boundary": Selection,
        "selected": Selected,
        "counterfactual": CounterfactualSource,
        "parameters": method_class(method).Parameters,
        "gates": Gates,
        "budget": Budget,
    }
    model = models.get(str(place[0]), Request) if place else Request
    return list(model.model_fields)


def _bad(message: str, value: str, limit: str) -> UnlearningError:
    return UnlearningError(
        ErrorCode.UNLEARNING_BAD_REQUEST,
        f"the request {message}",
        value=value[:200],
        limit=limit,
        remedy="correct the request",
    )
