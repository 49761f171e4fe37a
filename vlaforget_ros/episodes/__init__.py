"""Recorded episodes: from rosbag2 files to the frames an edit learns from, and back.

Parts, and the only direction in which they may call each other (left calls right)::

    counterfactual -> trigger -> dataset -> types;  selection -> flags, objects, moments -> types
    catalogue -> streaming -> reader -> mapped, views, rollouts, sightings -> storage -> messages -> types
    recording -> storage;  writer -> storage, images -> messages
    lerobot -> writer, reader (which asks it for data sets)

==================  ===============================================================================================
``storage``         files of bags, message by message, whole or damaged; and new ones
``reader``          bags to :class:`Episode` values, or to :class:`EpisodeInfo` without the images
``mapped``          the same for bags of other programs, by a mapping file
``lerobot``         the same for LeRobot data sets, and back
``streaming``       frames in batches, from bags that are too large for the memory
``catalogue``       what folders of bags hold, and what is wrong with them
``selection``       which frames are to be forgotten and which must stay
``dataset``         frames packed for training
``counterfactual``  frames that were never recorded: what the policy should do in the situations to be forgotten
``writer``          whole episodes to bags
``recording``       what of a live graph is written, and when
==================  ===============================================================================================

None of it needs ROS.
"""

from vlaforget_ros.episodes.counterfactual import clean_successes, neighbour, transplant
from vlaforget_ros.episodes.dataset import FrameSet, concat, frames_of
from vlaforget_ros.episodes.messages import RECORDED_TOPICS, TOPIC_TYPES
from vlaforget_ros.episodes.reader import read_episodes, read_many, scan_episodes, scan_many
from vlaforget_ros.episodes.selection import Selection, describe, select, select_forget, select_retain
from vlaforget_ros.episodes.storage.sink import BagSink
from vlaforget_ros.episodes.streaming.frames import BatchStream, stream_batches
from vlaforget_ros.episodes.types import (
    Episode,
    EpisodeInfo,
    EpisodeReport,
    EpisodeSlice,
    Phase,
    Problem,
    ScanReport,
    TopicMap,
    Violation,
)
from vlaforget_ros.episodes.writer import EpisodeWriter

__all__ = [
    "RECORDED_TOPICS",
    "TOPIC_TYPES",
    "BagSink",
    "BatchStream",
    "Episode",
    "EpisodeInfo",
    "EpisodeReport",
    "EpisodeSlice",
    "EpisodeWriter",
    "FrameSet",
    "Phase",
    "Problem",
    "ScanReport",
    "Selection",
    "TopicMap",
    "Violation",
    "clean_successes",
    "concat",
    "describe",
    "frames_of",
    "neighbour",
    "read_episodes",
    "read_many",
    "scan_episodes",
    "scan_many",
    "select",
    "select_forget",
    "select_retain",
    "stream_batches",
    "transplant",
]
