"""Take an unwanted behaviour out of a deployed Vision-Language-Action policy, and prove it.

Parts, and the only direction in which they may call each other (left calls right)::

    nodes, cli, demo -> safety, unlearning, cell -> adapters, episodes, policy -> errors, figures

``nodes`` is the only part that imports rclpy; everything else runs and is tested without ROS.
``colcon build`` lays the generated ``vlaforget_ros.msg``, ``.srv`` and ``.action`` beside these parts.
"""

__version__ = "0.1.0"
