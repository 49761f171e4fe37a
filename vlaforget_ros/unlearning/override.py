"""The same request with another method: for comparisons on the same data, limits and seed."""

from __future__ import annotations

from vlaforget_ros.unlearning.methods import method_class
from vlaforget_ros.unlearning.request import Request, parse_request


def with_method(request: Request, key: str) -> tuple[Request, tuple[str, ...], tuple[str, ...]]:
    """A request as another method would have it.

    Parameters that the request sets and that the other method has, too, are kept; those that it does not have are
    dropped, and everything else takes the other method's own defaults. The name gets the suffix ``-KEY``, so that
    neither adapter nor folder are those of the request itself.

    Returns:
        the request, names of the parameters that were kept, names of those that were dropped.

    Raises:
        UnlearningError: 300 for an unknown method, or a kept value that it does not accept.
    """
    fields = method_class(key).Parameters.model_fields
    given = request.parameters.model_dump(mode="json", include=request.parameters.model_fields_set)
    kept = {name: value for name, value in given.items() if name in fields}
    values = request.model_dump(mode="json")
    changed = {**values, "name": f"{request.name}-{key}", "method": key, "parameters": kept}
    return parse_request(changed), tuple(kept), tuple(name for name in given if name not in kept)
