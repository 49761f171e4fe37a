"""Each method has a parameter file with exactly its defaults, a place in the documentation and a source."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.unlearning.methods import METHODS, method_class
from vlaforget_ros.unlearning.methods.npo import NpoParameters
from vlaforget_ros.unlearning.parameters import JointParameters

ROOT = Path(__file__).resolve().parents[3]
FILES = ROOT / "config" / "methods"


def test_every_method_has_a_file_and_every_file_a_method() -> None:
    assert sorted(path.stem for path in FILES.iterdir()) == sorted(METHODS)
    assert all(key == method.key for key, method in METHODS.items())


@pytest.mark.parametrize("key", METHODS)
def test_a_file_holds_exactly_the_defaults_and_says_what_each_is(key: str) -> None:
    text = (FILES / f"{key}.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    assert list(content) == ["method", "parameters"]
    assert content["method"] == key
    defaults = METHODS[key].Parameters().model_dump(mode="json")
    assert content["parameters"] == defaults
    assert METHODS[key].Parameters(**content["parameters"]) == METHODS[key].Parameters()
    for name in defaults:
        (line,) = [line for line in text.splitlines() if re.match(rf"  {name}:", line)]
        assert re.search(r"  # \S.{5,}", line), line
        assert not name.endswith("_mb") or "[MB]" in line
        assert not name.endswith("_bins") or "[bins]" in line
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("key", METHODS)
def test_a_method_has_a_row_in_the_documentation_that_names_its_own_parameters(key: str) -> None:
    rows = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").splitlines()
    (row,) = [row for row in rows if row.startswith(f"| `{key}` |")]
    above = NpoParameters if key == "sam_npo" else JointParameters
    own = METHODS[key].Parameters.model_fields.keys() - above.model_fields.keys()
    assert key == "vla_forget" or not [name for name in own if f"`{name}`" not in row]


@pytest.mark.parametrize("key", METHODS)
def test_a_method_says_what_it_is_and_where_it_is_from(key: str) -> None:
    method = METHODS[key]
    assert 10 < len(method.title) <= 60
    number = method.source.removeprefix("arXiv ")
    module = sys.modules[method.__module__].__doc__ or ""
    assert key == "corrected" or (re.fullmatch(r"\d{4}\.\d{5}", number) and number in module)


def test_an_unknown_key_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UnlearningError, match=r"did you mean .*sam_npo") as error:
        method_class("sam-npo")
    assert error.value.code == ErrorCode.UNLEARNING_BAD_REQUEST
