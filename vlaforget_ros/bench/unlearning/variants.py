"""What is compared: every method with and without counterfactual data, and VLA-Forget without each of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml
from pydantic import ValidationError

from vlaforget_ros.errors import ErrorCode, UnlearningError, did_you_mean
from vlaforget_ros.unlearning.methods import METHODS
from vlaforget_ros.unlearning.methods.vla_forget import VlaForget

PLAIN = "_plain"
REFERENCES = ("base", "retrain")
OURS = VlaForget.key


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Args:
        name: in figure names.
        method: key of the method; "" for a policy that is not edited.
        parameters: where they differ from the method's defaults.
        counterfactual: whether the edit gets counterfactual data.
        part: what an ablation leaves out, "" for a method.
    """

    name: str
    method: str
    parameters: dict[str, Any] = field(default_factory=dict)
    counterfactual: bool = True
    part: str = ""


# The policy as it is, and the one that never saw the behaviour: the two ends of the scale.
BASE, RETRAIN = (Variant(name, "") for name in REFERENCES)
WITH = tuple(Variant(key, key) for key in METHODS)
WITHOUT = tuple(Variant(key + PLAIN, key, counterfactual=False) for key in METHODS)


def _ablation(name: str, part: str, **parameters: Any) -> Variant:
    return Variant(f"{OURS}_{name}", OURS, parameters, part=part)


ABLATIONS = (
    _ablation("vision_only", "projector and language stage", stages=["visual"]),
    _ablation("projector_only", "visual and language stage", stages=["projector"]),
    _ablation("language_only", "visual and projector stage", stages=["language"]),
    _ablation("no_pcgrad", "PCGrad", pcgrad=False),
    _ablation("no_mismatch", "mismatch term", lambda_m=0.0),
    _ablation("no_feature", "feature term", lambda_feat=0.0),
    _ablation("no_expansion", "expansion of the language stage", max_rounds=1),
    _ablation("no_forget", "forget and mismatch term", lambda_f=0.0, lambda_m=0.0),
    _ablation("no_kl", "KL to the original policy", kl_weight=0.0),
    _ablation("no_sharpness", "sharpened KL", kl_sharpness=1.0),
    _ablation("no_selection", "layer selection", selection="all"),
)
VARIANTS: dict[str, Variant] = {v.name: v for v in (BASE, RETRAIN, *WITH, *WITHOUT, *ABLATIONS)}


def with_settings(variants: Sequence[Variant], settings: Sequence[str]) -> list[Variant]:
    """Each variant once more for each setting, with those parameters of its method; references only as they are.

    Args:
        variants: rows.
        settings: ``KEY=VALUE``, the value as in YAML; several at once with ``;`` between them.

    Raises:
        UnlearningError: 300 where it has no such form, or a method has no such parameter or refuses the value.
    """
    edited = [variant for variant in variants if variant.name not in REFERENCES]
    return [*variants, *(_set(variant, setting) for setting in settings for variant in edited)]


def _set(variant: Variant, setting: str) -> Variant:
    pairs = {key.strip(): text for key, _, text in (part.partition("=") for part in setting.split(";"))}
    known = METHODS[variant.method].Parameters
    try:
        # Refused here, not after an hour of other rows.
        values = {key: yaml.safe_load(text) for key, text in pairs.items()}
        checked = known.model_validate({**variant.parameters, **values})
    except (ValidationError, yaml.YAMLError) as error:
        raise UnlearningError(
            ErrorCode.UNLEARNING_BAD_REQUEST,
            f"no setting of {variant.name}: {str(error).splitlines()[-2].strip()}",
            value=setting,
            limit="KEY=VALUE, for example learning_rate=0.0003, or several with ; between them",
            remedy=did_you_mean(
                next((key for key in pairs if key not in known.model_fields), ""), known.model_fields
            ),
        ) from error
    return replace(
        variant,
        name="_".join([variant.name, *(f"{key}_{text}" for key, text in pairs.items())]),
        parameters={**variant.parameters, **{key: getattr(checked, key) for key in pairs}},
    )


def choose(names: Sequence[str], plain: bool, ablations: bool) -> list[Variant]:
    """The variants to run, references first.

    Args:
        names: of variants; all when there are none.
        plain: with the methods without counterfactual data (only where no names are given).
        ablations: with the ablations (only where no names are given).

    Raises:
        UnlearningError: 300 for an unknown name.
    """
    for name in names:
        if name not in VARIANTS:
            raise UnlearningError(
                ErrorCode.UNLEARNING_BAD_REQUEST,
                "unknown variant",
                value=name,
                limit=f"a method, a method with {PLAIN}, or an ablation",
                remedy=did_you_mean(name, VARIANTS),
            )
    if names:
        return [BASE, RETRAIN, *(VARIANTS[name] for name in names if name not in REFERENCES)]
    return [BASE, RETRAIN, *WITH, *(WITHOUT if plain else ()), *(ABLATIONS if ablations else ())]
