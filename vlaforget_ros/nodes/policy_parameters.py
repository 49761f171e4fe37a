"""The parameters of policy_node, and the engine that they describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vlaforget_ros.adapters import AdapterStore
from vlaforget_ros.adapters.trust import TrustPolicy
from vlaforget_ros.nodes.parameters import Parameter, names_in
from vlaforget_ros.paths import checkpoint_directory
from vlaforget_ros.policy.engine import InferenceEngine
from vlaforget_ros.policy.inspection import require_servable
from vlaforget_ros.policy.policy import VlaPolicy
from vlaforget_ros.policy.probe import Probe
from vlaforget_ros.policy.room import require_device
from vlaforget_ros.policy.weight_only import WEIGHTS

PARAMETERS = (
    Parameter("checkpoint", "tiny", "Folder of the base checkpoint, or the name of one that ships."),
    Parameter("store", "runs/adapters", "Folder of the adapter store."),
    Parameter("trust", "", "File of the trust policy: who must have signed an adapter; empty: nobody."),
    Parameter("device", "cpu", "Where the model runs: cpu or cuda."),
    Parameter(
        "weights",
        "stored",
        "How the language model's weights are held: int8 and nf4 (4 bits) need less memory and round.",
        choices=WEIGHTS,
    ),
    Parameter(
        "share_weights",
        True,
        "Lend the base weights to edits on this host, where each would else hold a copy (a GPU, or another dtype).",
    ),
    Parameter("cameras", "", "Topics of further cameras, with commas, in the order of training."),
    Parameter(
        "state", "", "Topic of the robot's state (JointState, positions), where the policy is told it."
    ),
    Parameter("frame", "cell", "Frame of the actions."),
    Parameter("tick_s", 0.1, "Control period; an action later than this is a missed tick.", "s", 0.005, 10.0),
    Parameter("stale_after_s", 0.5, "Older images get the hold action.", "s", 0.01, 60.0),
    Parameter(
        "image_timeout_s", 10.0, "A rollout without any image for this long is aborted.", "s", 0.1, 600.0
    ),
    Parameter(
        "monitor_timeout_s",
        2.0,
        "A safety monitor that was heard and is silent for this long makes the arm hold; 0: never.",
        "s",
        0.0,
        60.0,
    ),
    Parameter(
        "canary_timeout_s", 5.0, "An older canary status routes no rollout to the candidate.", "s", 0.1, 600.0
    ),
    Parameter("max_steps", 220, "Step cap of goals that give none.", "ticks", 1, 100000),
    Parameter("torch_threads", 1, "Threads of one inference.", "", 1, 256),
    Parameter("resident_limit", 4, "Adapters that stay in memory, the active one included.", "", 2, 1000),
    Parameter(
        "resident_mb",
        0.0,
        "Memory of adapters beyond which idle ones are dropped; 0: any.",
        "MB",
        0.0,
        1e6,
    ),
    Parameter("pinned_aliases", "stable, previous", "Aliases whose adapters are never dropped, with commas."),
    Parameter(
        "adapter",
        "",
        "Adapter at the start: alias, name, digest or base; empty: stable, or previous where that fails.",
    ),
    Parameter("allow_base", False, "Serve the bare base where no adapter to start with can be used."),
    Parameter("probe_rounds", 3, "Trials of a new adapter before its first swap; 0: none.", "", 0, 100),
    Parameter(
        "probe_slowdown", 3.0, "Times the active adapter's inference time that are too long.", "", 1.0, 100.0
    ),
    Parameter(
        "probe_instructions", "", "Instructions for the trials, with commas, beside the one served last."
    ),
    Parameter(
        "merge_adapters", False, "Merge adapters into copies of the layers they touch: faster, more memory."
    ),
    Parameter(
        "compile",
        False,
        "Compile the model's functions while configuring (up to minutes): faster; swaps compile nothing anew.",
    ),
    Parameter(
        "chunk_steps",
        0,
        "Actions of a chunk that are executed before the next inference; 0: all.",
        "",
        0,
        1000,
    ),
    Parameter(
        "finish_chunks",
        False,
        "After a swap, execute the chunk of the earlier adapter to its end; otherwise it is dropped.",
    ),
    Parameter(
        "arms",
        "",
        "Namespaces of the arms that this process serves with one model, with commas; empty: one, its own.",
    ),
    Parameter(
        "arms_wait_ms",
        5.0,
        "How long an inference waits for those of other running arms, to share a forward pass with them.",
        "ms",
        0.0,
        1000.0,
    ),
    Parameter(
        "checked_tokens", 1, "Leading tokens of an action that may be text, which is a fault.", "", 0, 64
    ),
)

# What is looked at when a parameter is set on a running node, without reading a weight.
CHECKS: Mapping[str, Callable[[Any], object]] = {
    "checkpoint": lambda value: require_servable(checkpoint_directory(value)),
    "device": require_device,
}


def serving_engine(
    policy: VlaPolicy, values: Mapping[str, Any], beside: InferenceEngine | None = None
) -> InferenceEngine:
    """The engine as the parameters say.

    Args:
        policy: whose model becomes the engine's.
        values: checked parameters by name.
        beside: engine of another arm with the same policy, whose model is shared.

    Raises:
        AdapterError: 112 for a trust policy that cannot be used.
        PolicyError: 206 for a probe instruction that the policy cannot read, 208 for a bad combination or a policy that
            cannot be compiled.
    """
    trust = TrustPolicy.load(Path(values["trust"])) if values["trust"] else None
    merge, rounds = values["merge_adapters"], values["probe_rounds"]
    probe = None
    if rounds and beside is None:
        told = names_in(values["probe_instructions"])
        probe = Probe(policy, told, merge=merge, rounds=rounds, slowdown=values["probe_slowdown"])
    return InferenceEngine(
        policy,
        AdapterStore(Path(values["store"]), trust=trust),
        resident_limit=values["resident_limit"],
        resident_mb=values["resident_mb"],
        pinned=names_in(values["pinned_aliases"]),
        merge=merge,
        compiled=values["compile"],
        probe=probe,
        chunk_steps=values["chunk_steps"],
        finish_chunks=values["finish_chunks"],
        wait_ms=values["arms_wait_ms"],
        beside=beside,
    )
