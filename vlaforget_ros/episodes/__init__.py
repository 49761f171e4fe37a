"""Recorded episodes: from rosbag2 files to the frames an edit learns from, and back.

Parts, and the only direction in which they may call each other (left calls right)::

    counterfactual -> dataset -> selection -> types
    reader, writer -> messages -> types

``reader`` turns bags into :class:`Episode` values, ``selection`` picks frames of them (forget and retain
sets), ``dataset`` packs the frames for training and ``counterfactual`` makes frames that were never recorded:
what the policy should do in the situations to be forgotten. ``writer`` records. None of it needs ROS.
"""

from vlaforget_ros.episodes.types import (
    Episode,
    EpisodeReport,
    EpisodeSlice,
    Phase,
    Problem,
    TopicMap,
    Violation,
)

__all__ = ["Episode", "EpisodeReport", "EpisodeSlice", "Phase", "Problem", "TopicMap", "Violation"]
