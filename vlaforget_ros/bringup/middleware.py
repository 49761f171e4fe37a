"""Room for raw images in Fast DDS: without it most of those of 640x480 are lost (docs/recording.md)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from vlaforget_ros.paths import config_directory

PROFILES = "fastdds_images.xml"
_VARIABLE, _VARIABLE_BEFORE = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"
# Fast DDS 2 has another name for it.
_FAST_DDS_2 = ("humble", "iron", "jazzy")
_SHARED_MEMORY = Path("/dev/shm")
_LEAST_FREE = 256 << 20


def image_profiles(environment: Mapping[str, str], shared_memory: Path = _SHARED_MEMORY) -> dict[str, str]:
    """The variable that names config/fastdds_images.xml, for processes of a graph.

    Args:
        environment: variables as in ``os.environ``.
        shared_memory: where Fast DDS keeps what it sends; each process may take 32 MB there.

    Returns:
        nothing where the user chose profiles himself, or where there is less than 256 MB of shared memory, as in a
        container that was given no more.
    """
    if environment.get(_VARIABLE) or environment.get(_VARIABLE_BEFORE):
        return {}
    try:
        free = shutil.disk_usage(shared_memory).free
    except OSError:
        return {}
    name = _VARIABLE_BEFORE if environment.get("ROS_DISTRO") in _FAST_DDS_2 else _VARIABLE
    return {name: str(config_directory() / PROFILES)} if free >= _LEAST_FREE else {}
