"""What the topics of somebody else's bag mean: a YAML file, checked before a bag is opened (docs/mapping.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from vlaforget_ros.errors import ErrorCode, UnlearningError, did_you_mean

Which = Literal["nearest", "after", "before"]
Pixels = Annotated[int, Field(ge=1, le=8192)]
Scalar = bool | int | float | str


def _listed(value: Any) -> Any:
    """One text where a list of texts is meant."""
    return (value,) if isinstance(value, str) else value


def _as_topic(value: Any) -> Any:
    """A topic by its name only."""
    return {"topic": value} if isinstance(value, str) else value


class _Strict(BaseModel):
    """Unknown fields are errors, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TopicSource(_Strict):
    """One topic of the bag.

    Attributes:
        topic: full name with a slash in front, or the end of it (``image`` finds ``/arm1/image``).
        type: message type that it must have, "" for any that fits.
        stamp: field with the time of the message, "" for ``header.stamp``.
    """

    topic: str = Field(min_length=1)
    type: str = ""
    stamp: str = ""


class ImageSource(TopicSource):
    """A camera: sensor_msgs/Image or CompressedImage.

    Attributes:
        encoding: used in place of what the messages say, where they are wrong; "" believes them.
        size: height and width [px] to which images are resized; all cameras of a policy need one size. () leaves them.
        match: which image stands beside the main one (further cameras only).
        tolerance_s: how far from the main image it may be [s]; the mapping's by default.
    """

    encoding: str = ""
    size: tuple[Pixels, Pixels] | tuple[()] = ()
    match: Which = "nearest"
    tolerance_s: float | None = Field(default=None, ge=0)


class VectorSource(TopicSource):
    """A topic that carries numbers.

    Values are taken in this order: ``fields`` joined, of named joints those in ``names``, then ``indices``, then
    ``scale`` and ``offset``.

    Attributes:
        fields: paths into the message (``position``, ``twist.linear``, ``gripper.position``); a part of numbers such as
            a Vector3 gives all of them, in the order of its definition.
        names: for messages with a ``name`` beside each value (JointState): which, in which order.
        indices: which of the values, in which order; all by default.
        scale: factor, of all values or of each.
        offset: added after the factor, to all values or to each.
        match: which message belongs to an image.
        tolerance_s: how far from the image it may be [s]; the mapping's by default.
    """

    fields: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(default=("data",), min_length=1)
    names: tuple[str, ...] = ()
    indices: tuple[Annotated[int, Field(ge=0)], ...] = ()
    scale: float | tuple[float, ...] = 1.0
    offset: float | tuple[float, ...] = 0.0
    match: Which = "nearest"
    tolerance_s: float | None = Field(default=None, ge=0)


class Gripper(_Strict):
    """One value of an action in the policy's convention: ``open`` becomes ``to_open``, ``close`` becomes ``to_close``,
    what lies between in proportion, what lies beyond the nearer of both.

    Attributes:
        index: of the value in the finished action.
        open: recorded value of an open gripper, after ``scale`` and ``offset``.
        close: recorded value of a closed one.
        to_open: the policy's value of an open one.
        to_close: the policy's value of a closed one.
    """

    index: int = Field(ge=0)
    open: float
    close: float
    to_open: float = 1.0
    to_close: float = 0.0

    @model_validator(mode="after")
    def _differ(self) -> Gripper:
        if self.open == self.close:
            raise ValueError("open and close are the same value")
        return self


class ActionSource(VectorSource):
    """What the robot was told.

    Attributes:
        rotation: the four values from here on (after ``indices``) are a quaternion x, y, z, w and become three:
            ``rotation_as``.
        rotation_as: ``rotvec`` (axis times angle [rad]) or ``euler`` (roll, pitch, yaw about fixed axes [rad]).
        delta: the topic carries targets or poses, the policy learned differences: an action is the next frame's value
            less this frame's; of a rotation the turn between both, in the fixed frame. The gripper's value and
            ``absolute`` stay as they are. The last frame of a rollout has no next one and is dropped.
        absolute: indices of the finished action that stay absolute with ``delta``.
        gripper: convention of the gripper's value.
    """

    rotation: int | None = Field(default=None, ge=0)
    rotation_as: Literal["rotvec", "euler"] = "euler"
    delta: bool = False
    absolute: tuple[Annotated[int, Field(ge=0)], ...] = ()
    gripper: Gripper | None = None


class InstructionSource(_Strict):
    """What the policy was told to do: a topic, or one text for the whole bag.

    Attributes:
        topic: as of :class:`TopicSource`; "" with ``text``.
        field: path to the text.
        text: the instruction where no topic says it.
        stamp: field with the time of the message.
    """

    topic: str = ""
    field: str = "data"
    text: str = ""
    stamp: str = ""

    @model_validator(mode="after")
    def _one_of_both(self) -> InstructionSource:
        if bool(self.topic) == bool(self.text):
            raise ValueError("give either `topic` or `text`")
        return self


class OutcomeSource(TopicSource):
    """How a rollout ended; it is also its end.

    Attributes:
        field: path to the value.
        success: values that mean success; every other value means failure, unless ``failure`` is given.
        failure: values that mean failure; what is in neither list is ignored.
    """

    field: str = "data"
    success: tuple[Scalar, ...] = Field(default=(True,), min_length=1)
    failure: tuple[Scalar, ...] = ()


class ViolationSource(TopicSource):
    """When something was wrong: a rule's message, or an operator's flag.

    Attributes:
        field: path to the value that tells, "" where every message counts.
        values: values that mean a violation; the first message of a row of them counts.
        rule: name of the rule.
        rule_field: path to the name of the rule in the message, where it has one.
        text_field: path to a line for a person.
    """

    field: str = ""
    values: tuple[Scalar, ...] = (True,)
    rule: str = "operator/flag"
    rule_field: str = ""
    text_field: str = ""


class Cut(_Strict):
    """Where one rollout ends and the next begins.

    Attributes:
        gap_s: no image for longer than this [s]; 0 for never.
        instruction: another instruction.
        outcome: after an outcome.
        min_frames: shorter rollouts are dropped and counted.
    """

    gap_s: float = Field(default=2.0, ge=0)
    instruction: bool = True
    outcome: bool = True
    min_frames: int = Field(default=2, ge=1)


def _one_text(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


_Camera = Annotated[ImageSource, BeforeValidator(_as_topic)]


class TopicMapping(_Strict):
    """A mapping file; it stands for a :class:`TopicMap` wherever bags are read.

    Attributes:
        image: main camera.
        cameras: further ones, in the order in which the policy was trained.
        state: what the policy is told of the robot.
        action: what the robot was told.
        instruction: a topic, or a text.
        outcome: how rollouts ended.
        violations: rules and flags.
        namespace: of the robot, put in front of names without a slash in front.
        time: clock in which messages are matched: ``header``, ``log``, or ``auto``: header where image, cameras, state
            and action all have stamps, else log.
        tolerance_s: how far from its image a message may be [s].
        cut: how rollouts are told apart.
    """

    image: _Camera
    cameras: tuple[_Camera, ...] = ()
    state: VectorSource | None = None
    action: ActionSource
    instruction: Annotated[InstructionSource, BeforeValidator(_one_text)]
    outcome: OutcomeSource | None = None
    violations: tuple[ViolationSource, ...] = ()
    namespace: str = ""
    time: Literal["auto", "header", "log"] = "auto"
    tolerance_s: float = Field(default=0.05, ge=0)
    cut: Cut = Field(default_factory=Cut)


def read_mapping(path: Path) -> TopicMapping:
    """Read a mapping file.

    Args:
        path: YAML; config/mapping/example.yaml shows every field.

    Returns:
        What :func:`read_episodes`, :func:`scan_episodes` and the like take as ``topics``.

    Raises:
        UnlearningError: 300 naming the field, the value and what would have been accepted.
    """
    try:
        return parse_mapping(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(
            "mapping file cannot be read", str(path), "a readable YAML file", "check the path"
        ) from error


def parse_mapping(text: str) -> TopicMapping:
    """As :func:`read_mapping`, from the text of the file."""
    form = "the form of config/mapping/example.yaml"
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _bad("mapping is not YAML", str(error).split("\n")[0], form, "correct the file") from error
    if not isinstance(values, dict):
        raise _bad(
            "mapping must have fields", type(values).__name__, form, "`vlaforget episodes map` writes one"
        )
    try:
        return TopicMapping.model_validate(values)
    except ValidationError as error:
        raise _invalid(error) from error


def _invalid(error: ValidationError) -> UnlearningError:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    remedy = f"correct {'.'.join(place)}"
    if first["type"] == "extra_forbidden":
        remedy = did_you_mean(place[-1], _fields(place[:-1]))
    value = "nothing" if first["type"] == "missing" else str(first["input"])[:200]
    message = f"bad mapping: {'.'.join(place) or 'mapping'}: {first['msg']}{more}"
    return _bad(message, value, "see docs/mapping.md", remedy)


def _fields(place: list[str]) -> list[str]:
    models: dict[str, type[BaseModel]] = {
        "image": ImageSource,
        "cameras": ImageSource,
        "state": VectorSource,
        "action": ActionSource,
        "instruction": InstructionSource,
        "outcome": OutcomeSource,
        "violations": ViolationSource,
        "cut": Cut,
    }
    model = models.get(place[0], TopicMapping) if place else TopicMapping
    return list(Gripper.model_fields if "gripper" in place[1:] else model.model_fields)


def _bad(message: str, value: str, limit: str, remedy: str) -> UnlearningError:
    return UnlearningError(
        ErrorCode.UNLEARNING_BAD_REQUEST, message, value=value[:200], limit=limit, remedy=remedy
    )
