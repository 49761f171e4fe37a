"""Recorded episodes: from rosbag2 files to the frames an edit learns from, and back.

Parts, and the only direction in which they may call each other (left calls right)::

    counterfactual -> trigger -> dataset -> selection -> flags, objects, moments -> types
    reader -> views, rollouts -> bags;  reader, views -> topics, matching, images -> messages -> types
    stream -> showing, reels, batches -> reader, views -> bags -> mcap_source -> indexed, ahead
    writer -> sink, images -> messages
    intake -> recording -> ring, privacy, sink -> bag_files -> storages;  definitions -> messages
    index -> index_file;  checks -> findings;  index, checks -> cadence, reader, roles -> mapped_topics, topics
    glimpse -> reels -> reader

``reader`` turns bags into :class:`Episode` values, ``selection`` picks frames of them (forget and retain
sets), ``dataset`` packs the frames for training and ``counterfactual`` makes frames that were never recorded:
what the policy should do in the situations to be forgotten. ``index`` keeps what a folder of bags holds, ``checks``
looks for what is wrong with them, ``stream`` gives frames in batches from bags that are too large for the memory.
``writer`` writes whole episodes, ``sink`` message by message; ``recording`` decides what of a live graph is written,
``intake`` gives it a thread. None of it needs ROS.
"""

from vlaforget_ros.episodes.counterfactual import clean_successes, neighbour, transplant
from vlaforget_ros.episodes.dataset import FrameSet, concat, frames_of
from vlaforget_ros.episodes.messages import RECORDED_TOPICS, TOPIC_TYPES
from vlaforget_ros.episodes.reader import read_episodes, read_many, scan_episodes, scan_many
from vlaforget_ros.episodes.selection import Selection, describe, select, select_forget, select_retain
from vlaforget_ros.episodes.sink import BagSink
from vlaforget_ros.episodes.stream import BatchStream, stream_batches
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
