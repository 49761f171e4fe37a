"""Rules of the house that a reader relies on: which part may import which, where ROS is, what appears nowhere."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "vlaforget_ros"
MODULES = sorted(PACKAGE.rglob("*.py"))
# A part may import parts of a smaller rank. Generated interfaces (msg, srv, action) belong to the nodes.
RANK = {
    **dict.fromkeys(("errors",), 0),
    **dict.fromkeys(("figures", "finite", "paths"), 1),
    **dict.fromkeys(("adapters", "episodes", "bringup"), 2),
    **dict.fromkeys(("policy",), 3),
    **dict.fromkeys(("cell", "safety", "unlearning"), 4),
    **dict.fromkeys(("msg", "srv", "action"), 4),
    **dict.fromkeys(("report",), 5),
    **dict.fromkeys(("nodes", "attacks"), 6),
    **dict.fromkeys(("bench", "demo"), 7),
    **dict.fromkeys(("cli",), 8),
}
PEERS = {("bench", "demo"), ("demo", "bench")}  # the demo is a benchmark, and its loop is measured by others
ROS = ("rclpy", "launch", "launch_ros", "ament_index_python")
MAY_IMPORT_LAUNCH = {"bringup/launching.py"}


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_every_part_has_a_place_in_the_order() -> None:
    parts = {_part(path) for path in MODULES} - {"__init__"}
    assert parts <= set(RANK)


def test_parts_import_only_downwards() -> None:
    wrong = []
    for path in MODULES:
        source = _part(path)
        for module in _imports(path):
            target = module.split(".")[1] if module.startswith("vlaforget_ros.") else source
            if target != source and (source, target) not in PEERS and RANK[target] >= RANK[source]:
                wrong.append(f"{_name(path)} imports {module}")
    assert wrong == []


def test_only_nodes_import_ros() -> None:
    wrong = []
    for path in MODULES:
        if _part(path) == "nodes":
            continue
        for module in _imports(path):
            top = module.split(".")[0]
            generated = module.startswith(("vlaforget_ros.msg", "vlaforget_ros.srv", "vlaforget_ros.action"))
            if (top in ROS or top.endswith("_msgs") or generated) and _name(path) not in MAY_IMPORT_LAUNCH:
                wrong.append(f"{_name(path)} imports {module}")
    assert wrong == []


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_keeps_the_rules(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    assert not {"pickle", "dill", "cloudpickle", "joblib"} & {
        module.split(".")[0] for module in _imports(path)
    }
    for word in ("TODO", "FIXME", "NotImplementedError"):
        assert word not in text
    for node in ast.walk(ast.parse(text)):
        assert not isinstance(node, ast.Assert), f"assert in line {node.lineno}"
        assert not isinstance(node, ast.Attribute) or ast.unparse(node) != "torch.load"


@pytest.mark.parametrize("path", sorted((ROOT / "test").rglob("test_*.py")), ids=lambda path: path.stem)
def test_tests_neither_sleep_nor_skip(path: Path) -> None:
    used = {
        ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
    }
    assert not used & {
        "time.sleep",
        "pytest.skip",
        "pytest.mark.skip",
        "pytest.mark.skipif",
        "pytest.mark.xfail",
    }
