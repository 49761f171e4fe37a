"""Which features of a data set are the cameras and the state, from names as a person or a request gives them."""

from __future__ import annotations

from collections.abc import Sequence

from vlaforget_ros.episodes.lerobot.layout import STATE, Info
from vlaforget_ros.errors import ErrorCode, UnlearningError, did_you_mean

_PREFIXES = ("", "observation.", "observation.images.", "observation.image.")
MAIN = "image"
"""The main camera, where nobody says which: a feature of that name, as the topic in a bag is called."""


def choose_cameras(
    info: Info, names: Sequence[str], further: Sequence[str] = (), main: str = MAIN
) -> tuple[str, ...]:
    """Features of the cameras, the main one first.

    Args:
        info: of the data set.
        names: features, whole or without ``observation.images.``. Empty: the camera that is called
            ``main``, else the only one there is beside ``further``.
        further: cameras beside the main one, where ``names`` is empty.
        main: name of the main camera, where ``names`` is empty.

    Raises:
        UnlearningError: 300 for an unknown name, for one named twice, and when it is not clear which is the main one.
    """
    known = info.cameras
    if names:
        chosen = [_feature(name, known) for name in names]
    else:
        beside = [_feature(name, known) for name in further]
        named = _find(main, known)
        left = [name for name in known if name not in beside]
        if named is None and len(left) != 1:
            raise _bad(
                "which camera is the main one is not clear" if left else "the data set has no camera",
                ", ".join(known) or "none",
                f"one camera, or one called {main}",
                "name the main camera: `vlaforget episodes import --cameras NAME` makes a bag of the data set"
                if left
                else "policies here are shown pictures: choose a data set with colour images",
            )
        chosen = [left[0] if named is None else named, *beside]
    if len(set(chosen)) < len(chosen):
        raise _bad("one camera is named twice", ", ".join(chosen), ", ".join(known), "name each camera once")
    return tuple(chosen)


def choose_state(info: Info, name: str) -> str:
    """Feature of the state: the one of that name; for a topic (no dot in it) also ``observation.state``; "" for none.

    Raises:
        UnlearningError: 300 when a state is asked for and there is none.
    """
    if not name:
        return ""
    found = _find(name, list(info.features))
    if found is None and "." not in name and STATE in info.features:
        found = STATE
    if found is None or len(info.features[found].shape) != 1:
        raise _bad("the data set has no such state", name, STATE, "leave the state out, or name its feature")
    return found


def _feature(name: str, known: Sequence[str]) -> str:
    found = _find(name, known)
    if found is None:
        remedy = did_you_mean(name, [*known, *(text.rpartition(".")[2] for text in known)])
        raise _bad("the data set has no such camera", name, ", ".join(known) or "none", remedy)
    return found


def _find(name: str, known: Sequence[str]) -> str | None:
    bare = name.strip("/")
    # Topics of further cameras are called image_wrist where LeRobot says observation.images.wrist.
    texts = [prefix + text for text in (bare, bare.removeprefix("image_")) for prefix in _PREFIXES]
    return next((text for text in texts if text in known), None)


def _bad(message: str, value: str, limit: str, remedy: str) -> UnlearningError:
    return UnlearningError(ErrorCode.UNLEARNING_BAD_REQUEST, message, value=value, limit=limit, remedy=remedy)
