"""Which adapter an arm starts with: the last known good one, and the bare base only where somebody said so."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vlaforget_ros.errors import AdapterError, ErrorCode, VlaForgetError
from vlaforget_ros.policy.engine import InferenceEngine


def start(
    engine: InferenceEngine,
    aliases: Mapping[str, str],
    wanted: str,
    allow_base: bool,
    told: Callable[[str], object],
) -> str:
    """Make the engine serve what it is to start with, before the first inference.

    Without a wish that is ``stable``, or ``previous`` where ``stable`` cannot be used, or the base where the store has
    no ``stable``. Both become resident: a rollback after the start goes to ``previous``, and to a base that was edited
    for a reason only with ``allow_base``.

    Args:
        engine: that has served nothing yet.
        aliases: of the store.
        wanted: alias, name, digest or prefix; ``base``: no adapter; "": the last known good one.
        allow_base: the bare base may be served where no adapter can be used.
        told: gets a line for a person for each adapter that cannot be used.

    Returns:
        digest of the active adapter; "" = base model.

    Raises:
        AdapterError: the code of the last failure, where no adapter can be used and the base may not be served.
    """
    choices = [wanted] if wanted else []
    if not wanted and aliases.get("stable"):
        # The better one last: whichever of the two can be used is active in the end.
        choices = [name for name in ("previous", "stable") if aliases.get(name)]
    failed: list[VlaForgetError] = []
    for choice in choices:
        try:
            engine.swap(choice, reason="start")
        except VlaForgetError as error:
            told(f"cannot start with {choice}: {error}")
            failed.append(error)
    if failed and not engine.active_digest and not allow_base:
        last = failed[-1]
        raise AdapterError(
            ErrorCode(last.code),
            f"there is no adapter to start with: {last.message}",
            value=last.value,
            limit=f"one of {', '.join(reversed(choices))}",
            remedy="repair the store or name another adapter; allow_base serves the bare base",
        )
    if engine.active_digest and not allow_base:
        engine.forget_base()
    return engine.active_digest
