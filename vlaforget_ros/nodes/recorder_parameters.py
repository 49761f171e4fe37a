"""What recorder_node can be told, and what that means for a recording."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlaforget_ros.episodes.recording.recording import Settings
from vlaforget_ros.nodes.parameters import Parameter

PARAMETERS = (
    Parameter("bag", "", "Folder of the bag to write; empty makes one under out with the date as its name."),
    Parameter("out", "runs/bags", "Where bags without a name go."),
    Parameter("storage", "mcap", "Storage format.", choices=("mcap", "sqlite3")),
    Parameter("compression", "none", "Of the chunks of mcap.", choices=("none", "zstd")),
    Parameter("split_mb", 0.0, "Size after which a new file begins; 0 for one file.", "MB", 0.0, 1e9),
    Parameter("split_s", 0.0, "Time after which a new file begins; 0 for one file.", "s", 0.0, 1e9),
    Parameter("min_free_mb", 1000.0, "Space on the disk that is left alone; 0 for none.", "MB", 0.0, 1e9),
    Parameter(
        "topics", "", "Topics to record and no others, with commas; empty: the graph's, cameras and state."
    ),
    Parameter("cameras", "", "Topics of further cameras, with commas, as the policy node has them."),
    Parameter("state", "", "Topic of the robot's state (JointState), as the policy node has it."),
    Parameter(
        "mask",
        "",
        "Regions of images that do not reach the disk: TOPIC: blur|black|crop X,Y,WIDTH,HEIGHT; ...",
    ),
    Parameter(
        "pre_trigger_s", 0.0, "Kept before a violation; 0 records everything, always.", "s", 0.0, 3600.0
    ),
    Parameter("post_trigger_s", 10.0, "Written after the last violation.", "s", 0.0, 3600.0),
    Parameter("ring_mb", 500.0, "Most memory for what is kept before a violation.", "MB", 1.0, 1e6),
)


def settings(values: Mapping[str, Any]) -> Settings:
    """How a recording is made, from checked parameters."""
    names = Settings.__dataclass_fields__
    return Settings(**{name: values[name] for name in names})
