"""The process table: which nodes make a graph, with which parameter files, names and arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from vlaforget_ros.errors import ErrorCode, VlaForgetError, did_you_mean
from vlaforget_ros.paths import config_directory

ParameterValue = bool | int | float | str


@dataclass(frozen=True)
class Argument:
    """An argument of a graph, given as ``name:=value`` to `ros2 launch` and `vlaforget up`.

    Args:
        name: how it is given.
        default: its text when it is not given; "" = left to the parameter files.
        description: one line for `--show-args`.
        choices: accepted texts; () = any.
    """

    name: str
    default: str
    description: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Process:
    """One lifecycle node in a process of its own, fully resolved.

    Args:
        executable: file in ``lib/vlaforget_ros``; also the node's name, which keys the parameter files.
        namespace: "" or "/arm1": where the relative names of topics, services and actions begin.
        parameter_files: read in order, later ones win.
        parameters: single values that win over the files.
        remappings: pairs (from, to) of ROS names.
        essential: when it ends by itself the whole graph is stopped; otherwise the others go on and the end
            is reported.
        log_level: smallest severity the node logs.
    """

    executable: str
    namespace: str
    parameter_files: tuple[Path, ...]
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    remappings: tuple[tuple[str, str], ...] = ()
    essential: bool = True
    log_level: str = "info"


@dataclass(frozen=True)
class _Row:
    """One line of the table.

    Args:
        executable: node executable and node name.
        files: arguments whose texts name parameter files.
        essential: as in :class:`Process`.
        passed_on: arguments that become parameters of the same name, where they are given.
        gated: remappings where the safety monitor stands between policy and arm.
    """

    executable: str
    files: tuple[str, ...]
    essential: bool
    passed_on: tuple[str, ...] = ()
    gated: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Graph:
    """A named set of processes.

    Args:
        name: ``unlearn``, ``serve``, ``canary``, ``monitor`` or ``demo``.
        description: one line.
        arguments: what may be given, in the order of `--show-args`.
    """

    name: str
    description: str
    arguments: tuple[Argument, ...]
    rows: tuple[_Row, ...] = field(repr=False)


# Edits and recordings run beside a working arm: it is as safe without them. Without its monitor or its
# policy it is not.
_CELL_ROW = _Row(
    "cell_node",
    ("cell",),
    essential=True,
    passed_on=("use_sim_time", "autostart"),
    gated=(("action", "action_checked"),),
)
_POLICY_ROW = _Row(
    "policy_node", ("policy",), essential=True, passed_on=("use_sim_time", "autostart", "store")
)
_UNLEARNING_ROW = _Row(
    "unlearning_node",
    ("unlearning",),
    essential=False,
    passed_on=("use_sim_time", "autostart", "store"),
)
_SAFETY_ROW = _Row(
    "safety_monitor_node",
    ("safety",),
    essential=True,
    passed_on=("use_sim_time", "autostart", "rules_file", "store", "state_file", "command_gate"),
)
_RECORDER_ROW = _Row(
    "recorder_node", ("recorder",), essential=False, passed_on=("use_sim_time", "autostart", "bag")
)

_FILE = "a file of config/ without .yaml, or a path"
_STORE = (Argument("store", "", "folder of the adapter store, one for all nodes"),)
_POLICY = (Argument("policy", "tiny", f"model configuration: {_FILE}"),)
_UNLEARNING = (Argument("unlearning", "unlearning", f"settings of the edits: {_FILE}"),)
_SAFETY = (
    Argument("safety", "safety", f"settings of the monitor: {_FILE}"),
    Argument("rules_file", "", "file with the safety rules; config/rules holds examples"),
    Argument("state_file", "", "keeps counts, a stop and a running canary over a restart of the monitor"),
)
_BOOLEANS = ("true", "false")
_GATE = "the monitor stands between policy and arm, which takes `action_checked`"
_BESIDE = (Argument("command_gate", "false", _GATE, _BOOLEANS),)
_BETWEEN = (Argument("command_gate", "true", _GATE, _BOOLEANS),)
_CELL = (
    Argument("cell", "cell", f"settings of the simulated cell: {_FILE}"),
    Argument("recorder", "recorder", f"what is recorded: {_FILE}"),
    Argument("bag", "", "folder the recorder writes its rosbag2 to"),
)
# Where a robot's own drivers publish; the nodes' relative names are remapped to it.
TOPIC_ARGUMENTS = tuple(
    Argument(f"{topic}_topic", "", f"topic used for `{topic}`, {what}")
    for topic, what in (
        ("image", "sensor_msgs/Image or CompressedImage"),
        ("joint_states", "sensor_msgs/JointState"),
        ("ee_pose", "geometry_msgs/PoseStamped"),
        ("wrench", "geometry_msgs/WrenchStamped"),
        ("human_distance", "sensor_msgs/Range"),
        ("instruction", "std_msgs/String"),
        ("action", "vlaforget_ros/PolicyAction"),
        ("reference_action", "vlaforget_ros/PolicyAction of a reference policy, for rule drift"),
        ("action_checked", "vlaforget_ros/PolicyAction, what the command gate lets through"),
    )
)


def _common(use_sim_time: str) -> tuple[Argument, ...]:
    return (
        Argument("namespace", "", "namespace of the arm, for example arm1"),
        Argument(
            "use_sim_time", use_sim_time, "time from /clock, as a cell in lockstep publishes", _BOOLEANS
        ),
        Argument("autostart", "true", "lifecycle nodes configure and activate themselves", _BOOLEANS),
        Argument(
            "log_level", "info", "smallest severity logged", ("debug", "info", "warn", "error", "fatal")
        ),
    )


_ALL = (
    Graph(
        "unlearn",
        "policy, unlearning and safety monitor on an arm that publishes images and takes actions",
        _POLICY + _UNLEARNING + _SAFETY + _BESIDE + _STORE + TOPIC_ARGUMENTS + _common("false"),
        (_POLICY_ROW, _UNLEARNING_ROW, _SAFETY_ROW),
    ),
    Graph(
        "serve",
        "policy and safety monitor",
        _POLICY + _SAFETY + _BESIDE + _STORE + TOPIC_ARGUMENTS + _common("false"),
        (_POLICY_ROW, _SAFETY_ROW),
    ),
    Graph(
        "canary",
        "policy, and the safety monitor in the command path: for a canary on the arm",
        _POLICY + _SAFETY + _BETWEEN + _STORE + TOPIC_ARGUMENTS + _common("false"),
        (_POLICY_ROW, _SAFETY_ROW),
    ),
    Graph(
        "monitor",
        "the safety monitor alone, beside any controller",
        _SAFETY + _BESIDE + _STORE + TOPIC_ARGUMENTS + _common("false"),
        (_SAFETY_ROW,),
    ),
    Graph(
        "demo",
        "all nodes with a simulated cell in lockstep and a recorder",
        _POLICY + _UNLEARNING + _SAFETY + _BESIDE + _STORE + _CELL + _common("true"),
        (_CELL_ROW, _POLICY_ROW, _UNLEARNING_ROW, _SAFETY_ROW, _RECORDER_ROW),
    ),
)
GRAPHS: Mapping[str, Graph] = MappingProxyType({graph.name: graph for graph in _ALL})


def graph(name: str) -> Graph:
    """The graph of that name.

    Raises:
        VlaForgetError: 605, there is none.
    """
    if name not in GRAPHS:
        raise _bad(f"unknown graph {name}", name, GRAPHS)
    return GRAPHS[name]


def processes(
    name: str,
    arguments: Mapping[str, str] | None = None,
    overrides: Mapping[str, Mapping[str, ParameterValue]] | None = None,
) -> tuple[Process, ...]:
    """The processes of a graph, in the order in which they are started.

    Args:
        name: a key of :data:`GRAPHS`.
        arguments: texts by argument name; those not given take their defaults.
        overrides: parameters by executable, for callers in Python; they win over everything.

    Raises:
        VlaForgetError: 605, an unknown graph, argument, executable or choice, or a parameter file that is
            not there.
    """
    chosen = graph(name)
    texts = _complete(chosen, arguments or {})
    extra = overrides or {}
    executables = [row.executable for row in chosen.rows]
    for executable in extra:
        if executable not in executables:
            raise _bad(f"graph {name} has no {executable}", executable, executables)
    return tuple(_process(row, texts, extra.get(row.executable, {})) for row in chosen.rows)


def parameter_file(text: str) -> Path:
    """The parameter file a person means by ``text``: a path, or the name of a file of config/.

    Raises:
        VlaForgetError: 605, it is not there.
    """
    if text.endswith((".yaml", ".yml")) or "/" in text:
        path = Path(text).expanduser().resolve()
        if path.is_file():
            return path
        raise _bad("no such parameter file", str(path), [file.stem for file in _shipped()])
    for file in _shipped():
        if file.stem == text:
            return file
    raise _bad(f"config/ has no {text}.yaml", text, [file.stem for file in _shipped()])


def _shipped() -> list[Path]:
    """The parameter files of config/, which holds other YAML files too."""
    files = sorted(config_directory().glob("*.yaml"))
    return [file for file in files if "ros__parameters:" in file.read_text(encoding="utf-8")]


def _complete(chosen: Graph, given: Mapping[str, str]) -> dict[str, str]:
    known = {argument.name: argument for argument in chosen.arguments}
    for name, text in given.items():
        if name not in known:
            raise _bad(f"graph {chosen.name} takes no argument {name}", name, known)
        choices = known[name].choices
        if choices and text not in choices:
            raise _bad(f"argument {name} is not usable", text, choices)
    return {name: given.get(name, argument.default) for name, argument in known.items()}


def _process(row: _Row, texts: Mapping[str, str], extra: Mapping[str, ParameterValue]) -> Process:
    parameters = {name: _value(texts[name]) for name in row.passed_on if texts[name]}
    remappings = tuple(
        (topic, texts[argument.name])
        for argument in TOPIC_ARGUMENTS
        if texts.get(argument.name) and (topic := argument.name.removesuffix("_topic"))
    )
    if texts.get("command_gate") == "true":
        remappings += row.gated
    namespace = texts["namespace"].strip("/")
    return Process(
        executable=row.executable,
        namespace=f"/{namespace}" if namespace else "",
        parameter_files=tuple(parameter_file(texts[name]) for name in row.files),
        parameters={**parameters, **extra},
        remappings=remappings,
        essential=row.essential,
        log_level=texts["log_level"],
    )


def _value(text: str) -> ParameterValue:
    return text == "true" if text in _BOOLEANS else text


def _bad(message: str, value: str, choices: Iterable[str]) -> VlaForgetError:
    return VlaForgetError(
        ErrorCode.BRINGUP_BAD_ARGUMENT, message, value=value, remedy=did_you_mean(value, choices)
    )
