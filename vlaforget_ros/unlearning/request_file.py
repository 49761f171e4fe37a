"""A request as a YAML file that a person reads: comments say what each part is for, and what was chosen."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vlaforget_ros.errors import ErrorCode, UnlearningError
from vlaforget_ros.unlearning.neighbours import Neighbour
from vlaforget_ros.unlearning.request import Request, read_request
from vlaforget_ros.unlearning.selected import Selected

_HEAD = """\
# A request to unlearn, written by `vlaforget request new`; docs/unlearning.md has every field.
# `vlaforget request show FILE` says what it chooses, `vlaforget unlearn FILE` carries it out.
# Relative paths start at this file.
"""
_COMMENTS = {
    "reason": "what happened, for whoever reads the adapter's manifest in a year",
    "base": "folder of the base checkpoint",
    "start_from": "adapter to start from",
    "earlier": "requests whose edits are in `start_from` and must not be undone",
    "bags": "recordings",
    "mapping": "what the topics of the bags mean, see docs/mapping.md",
    "forget": "what is undesired (D_f)",
    "retain": "what must keep working (D_r); rollouts of D_f are never in it",
    "boundary": "near neighbours of D_f that must keep working (D_b)",
    "counterfactual": "where examples of the right behaviour in the forget situations come from",
    "method": "see `vlaforget methods`",
    "selected": "What was chosen when this file was written: rollouts with their frames, bags by the SHA-256 of their\n"
    "# content. An edit is refused (300) when either has changed; without this part it takes what it finds.",
}
_MOST_UPWARDS = 3


def render(
    values: Mapping[str, Any], selected: Selected, folder: Path, neighbours: Sequence[Neighbour] = ()
) -> str:
    """The text of a request file.

    Args:
        values: fields of the request; ``base`` and ``bags`` are absolute paths.
        selected: what was chosen.
        folder: the file will be in; paths below it or near it are written relative to it.
        neighbours: of the boundary set, for comments.
    """
    near = {
        **values,
        "base": _near(values["base"], folder),
        "bags": [_near(bag, folder) for bag in values["bags"]],
    }
    if values.get("earlier"):
        near["earlier"] = [_near(earlier, folder) for earlier in values["earlier"]]
    if values.get("mapping"):
        near["mapping"] = _near(values["mapping"], folder)
    parts = [_HEAD]
    for name, value in {**near, "selected": selected.model_dump(mode="json")}.items():
        comment = _COMMENTS.get(name)
        lines = yaml.safe_dump({name: value}, sort_keys=False, allow_unicode=True, width=110)
        if name == "boundary":
            lines = _with_distances(lines, neighbours)
        parts.append(f"\n# {comment}\n{lines}" if comment else lines)
    return "".join(parts)


def write_request(text: str, path: Path, force: bool = False) -> Request:
    """Write a request file, after reading it back.

    Args:
        text: as :func:`render` made it.
        path: of the file; its folder is made where it is not there.
        force: replace a file.

    Raises:
        UnlearningError: 300 for a file that is there, a folder that cannot be written to, and for a request that is
            none.
    """
    require_free(path, force)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        request = read_request(temporary)
        temporary.replace(path)
    except OSError as error:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            f"the request file cannot be written: {error.strerror or error}",
            value=str(path),
            remedy="choose another --out",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return request


def require_free(path: Path, force: bool) -> None:
    """Raises UnlearningError 300 for a request file that is there already, unless it may be replaced."""
    if path.exists() and not force:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            "the request file is there already",
            value=str(path),
            remedy="choose another --out, or replace it with --force",
        )


def _near(path: str, folder: Path) -> str:
    """Relative to the folder, unless that would lead up too far to be read."""
    relative = os.path.relpath(path, folder)
    return path if relative.count("..") > _MOST_UPWARDS else relative


def _with_distances(lines: str, neighbours: Sequence[Neighbour]) -> str:
    """Each proposed rollout with how near it is to what."""
    texts = {f"  - {n.rollout_id}": f"{n.distance:.3f} from {n.nearest}" for n in neighbours}
    told = [f"{line}  # {texts[line]}" if line in texts else line for line in lines.splitlines()]
    return "\n".join(told) + "\n"
