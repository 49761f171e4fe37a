"""A mapping file for a bag, guessed from the names, types and rates of its topics; a person corrects it."""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rosbags.interfaces import Nodetype

from vlaforget_ros.episodes.messages import COMPRESSED_IMAGE, IMAGE, JOINT_STATE, STRING
from vlaforget_ros.episodes.storage.bags import Bag
from vlaforget_ros.episodes.types import NANOSECONDS
from vlaforget_ros.errors import ErrorCode, UnlearningError

_ACTIONS = ("action", "command", "cmd", "target", "goal", "desired", "twist", "delta")
_STATES = ("joint_states", "state", "joint", "pose")
_INSTRUCTIONS = ("instruction", "task", "prompt", "language", "goal", "command")
_OUTCOMES = ("success", "outcome", "result", "done", "reward")
_FLAGS = ("violation", "flag", "estop", "e_stop", "stop", "intervention", "unsafe")
_SIDE_CAMERAS = ("wrist", "hand", "gripper", "side", "left", "right")
_NO_CAMERAS = ("depth", "mask", "segmentation", "thermal", "infra")
_FIELDS = {
    "std_msgs/msg/Float32MultiArray": "[data]",
    "std_msgs/msg/Float64MultiArray": "[data]",
    "geometry_msgs/msg/Twist": "[linear, angular]",
    "geometry_msgs/msg/TwistStamped": "[twist.linear, twist.angular]",
    "geometry_msgs/msg/Pose": "[position, orientation]",
    "geometry_msgs/msg/PoseStamped": "[pose.position, pose.orientation]",
    "trajectory_msgs/msg/JointTrajectory": "[points[0].positions]",
    "vlaforget_ros/msg/PolicyAction": "[action]",
    JOINT_STATE: "[position]",
}
_POSES = ("geometry_msgs/msg/Pose", "geometry_msgs/msg/PoseStamped")
_BOOL = "std_msgs/msg/Bool"
_PLAIN = (STRING, _BOOL)
_NUMBERS = ("float32", "float64")


@dataclass(frozen=True)
class _Topic:
    name: str
    msgtype: str
    count: int
    rate: float

    def rank(self, words: tuple[str, ...]) -> int:
        """Place of the first word that its name has; behind all of them for none."""
        return next((n for n, word in enumerate(words) if word in self.name.lower()), len(words))

    def hints(self, words: tuple[str, ...]) -> bool:
        return self.rank(words) < len(words)


def propose_mapping(bag: Path) -> str:
    """The text of a mapping file for a bag, with every topic it has as a comment.

    Args:
        bag: folder or file.

    Raises:
        UnlearningError: 301 when the bag is unreadable, or has no image or nothing that could be an action.
    """
    with Bag(Path(bag)) as opened:
        topics = _topics(opened)
        cameras = _cameras(topics)
        action = _action(opened, topics)
        if not cameras or action is None:
            found = ", ".join(f"{t.name} ({t.msgtype})" for t in topics) or "no topics"
            raise UnlearningError(
                ErrorCode.UNLEARNING_BAG_UNREADABLE,
                f"bag has no {'image' if not cameras else 'topic that could be the action'}: {bag}",
                value=f"found {found}",
                limit=f"{IMAGE} or {COMPRESSED_IMAGE}, and a topic with numbers",
                remedy="record the camera and what the robot was told",
            )
        return _text(opened, Path(bag), topics, cameras, action)


def _topics(bag: Bag) -> list[_Topic]:
    times: dict[str, array[int]] = {name: array("q") for name in bag.topics}
    for message in bag.messages(tuple(bag.topics), tuple(bag.topics)):
        times[message.topic].append(message.time_ns)
    found = []
    for name, msgtype in sorted(bag.topics.items()):
        # The median: pauses between rollouts are no rate.
        period = float(np.median(np.diff(times[name]))) if len(times[name]) > 1 else 0.0
        rate = NANOSECONDS / period if period > 0 else 0.0
        found.append(_Topic(name, msgtype, len(times[name]), rate))
    return found


def _cameras(topics: list[_Topic]) -> list[_Topic]:
    """Colour cameras, the one most likely the main one first."""
    images = [
        t for t in topics if t.msgtype in (IMAGE, COMPRESSED_IMAGE) and t.count and not t.hints(_NO_CAMERAS)
    ]
    raw = {t.name for t in images if t.msgtype == IMAGE}
    images = [t for t in images if t.name.removesuffix("/compressed") not in raw - {t.name}]
    return sorted(images, key=lambda t: (t.hints(_SIDE_CAMERAS), -t.count, t.name))


def _action(bag: Bag, topics: list[_Topic]) -> _Topic | None:
    able = [t for t in topics if t.count and _fields(bag, t)]
    hinted = sorted((t for t in able if t.hints(_ACTIONS)), key=lambda t: (t.rank(_ACTIONS), t.name))
    # Nobody recorded a command: successive poses are as good.
    others = [t for t in able if t.msgtype in _POSES] + [t for t in able if t.msgtype == JOINT_STATE]
    return next(iter([*hinted, *others]), None)


def _fields(bag: Bag, topic: _Topic) -> str:
    if topic.msgtype in _FIELDS:
        return _FIELDS[topic.msgtype]
    if topic.msgtype in (IMAGE, COMPRESSED_IMAGE):
        return ""
    try:
        fields = bag.fields(topic.msgtype)
    except UnlearningError:
        return ""
    lists = (Nodetype.ARRAY, Nodetype.SEQUENCE)
    names = [
        name
        for name, (node, what) in fields
        if node in lists and what[0][0] is Nodetype.BASE and what[0][1][0] in _NUMBERS
    ]
    return f"[{names[0]}]" if names else ""


def _text(bag: Bag, path: Path, topics: list[_Topic], cameras: list[_Topic], action: _Topic) -> str:
    main, *further = cameras
    width = max(len(t.name) for t in topics)
    kind = max(len(t.msgtype) for t in topics)
    lines = [
        f"# What the topics of {path.name} mean: a proposal from their names and types. docs/mapping.md",
        "#",
    ]
    lines += [f"# {t.name:{width}}  {t.msgtype:{kind}}  {t.count:7d}  {t.rate:6.1f} Hz" for t in topics]
    lines += ["", f"image: {_quoted(main.name)}"]
    if further:
        lines += ["# Only those that the policy looks through, in the order of training."]
        lines += [f"# cameras: [{', '.join(_quoted(t.name) for t in further)}]"]
    states = [t for t in topics if t.hints(_STATES) and t.count and _fields(bag, t) and t != action]
    if states:
        best = min(states, key=lambda t: (t.rank(_STATES), t.name))
        lines += ["# Only where the policy is told the robot's state."]
        lines += [f"# state: {{topic: {_quoted(best.name)}, fields: {_fields(bag, best)}}}"]
    lines += ["action:", f"  topic: {_quoted(action.name)}", f"  fields: {_fields(bag, action)}"]
    if action.msgtype in _POSES:
        lines += ["  rotation: 3      # the quaternion behind the position becomes roll, pitch, yaw"]
        lines += ["  delta: true      # poses: an action is the way to the next one"]
    elif action.msgtype == JOINT_STATE:
        lines += ["  delta: true      # positions: an action is the way to the next one"]
    lines += [
        "  # indices: [0, 1, 2]     # which values, in which order",
        "  # scale: 1.0             # to the policy's units, one for all or one for each",
        "  # gripper: {index: 6, open: 0.08, close: 0.0, to_open: 1.0, to_close: 0.0}",
    ]
    lines += _told(bag, topics, action)
    period = 1.0 / main.rate if main.rate > 0 else 0.1
    lines += [
        "",
        "time: auto         # header, log, or auto: header where all of these have stamps",
        f"tolerance_s: {max(period / 2, 0.005):.3f} # how far from its image an action may be: half a period",
        "cut: {gap_s: 2.0, instruction: true, outcome: true}",
    ]
    return "\n".join(lines) + "\n"


def _told(bag: Bag, topics: list[_Topic], action: _Topic) -> list[str]:
    """Instruction, outcome and flags."""
    others = [t for t in topics if t.count and t != action]
    texts = [t for t in others if t.msgtype == STRING]
    fields = {t.name: _values(bag, t) for t in others}
    judged = [
        t for t in others if "success" in fields[t.name] or (t.hints(_OUTCOMES) and t.msgtype in _PLAIN)
    ]
    flags = [t for t in others if t.hints(_FLAGS) and t.msgtype == _BOOL and t not in judged]
    rules = [t for t in others if t.hints(_FLAGS) and "rule" in fields[t.name]]
    told = [t for t in texts if t.hints(_INSTRUCTIONS) and t not in judged]
    lines = []
    if told:
        best = min(told, key=lambda t: (t.rank(_INSTRUCTIONS), t.name))
        lines.append(f"instruction: {{topic: {_quoted(best.name)}}}")
    else:
        lines.append('instruction: {text: "say here what the robot was told"}   # no topic says it')
    if judged:
        best = min(judged, key=lambda t: (t.rank(_OUTCOMES), t.name))
        field = "success" if "success" in fields[best.name] else "data"
        values = '["success"]' if best.msgtype == STRING else "[true]"
        lines.append(f"outcome: {{topic: {_quoted(best.name)}, field: {field}, success: {values}}}")
    found = [f"{{topic: {_quoted(t.name)}, field: data, values: [true]}}" for t in flags]
    found += [f"{{topic: {_quoted(t.name)}, rule_field: rule}}" for t in rules]
    if found:
        lines.append(f"violations: [{', '.join(found)}]")
    return lines


def _values(bag: Bag, topic: _Topic) -> set[str]:
    """Names of a message's fields that hold one value."""
    try:
        return {name for name, (node, _) in bag.fields(topic.msgtype) if node is Nodetype.BASE}
    except UnlearningError:
        return set()


def _quoted(name: str) -> str:
    return name if name.startswith("/") else json.dumps(name)
