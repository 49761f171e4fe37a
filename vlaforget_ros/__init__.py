"""Take an unwanted behaviour out of a deployed Vision-Language-Action policy, and prove it.

Parts, and the only direction in which they may call each other (left calls right)::

    cli -> bench, demo -> attacks -> nodes, report -> safety, unlearning, cell
        -> adapters, episodes, policy -> errors, figures

``nodes`` is the only part that imports rclpy; everything else runs and is tested without ROS.
``colcon build`` lays the generated ``vlaforget_ros.msg``, ``.srv`` and ``.action`` beside these parts.
"""

import logging
import os
from pkgutil import extend_path

__version__ = "0.1.0"

# The generated interfaces and the hand-written parts may lie in two places: beside this file (colcon's install
# space) or apart (tests from the source tree; --symlink-install, where this file is a link into the source tree and
# modules written since the last build are only there). Both places count, the source first.
__path__ = extend_path(__path__, __name__)
_source = os.path.dirname(os.path.realpath(__file__))
__path__ = [_source, *(place for place in __path__ if place != _source)]

# PEFT imports bitsandbytes wherever it is installed, and that warns of an optional kernel which it lacks.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
