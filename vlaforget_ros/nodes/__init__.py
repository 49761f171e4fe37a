"""The ROS nodes, each in its own process, and a synchronous client: the only place that imports rclpy.

``policy``, ``unlearning``, ``safety_monitor``, ``cell`` and ``recorder`` are the entry points (``python -m
vlaforget_ros.nodes.policy``); ``*_node`` hold the thin lifecycle nodes, ``base`` what they share. What they
decide lies in ``control`` and in the parts below, which know nothing of ROS.
"""
