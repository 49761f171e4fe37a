"""Which processes run together, and how they are started and stopped.

- ``table``: the one process table: nodes, parameter files, namespaces, what happens when one dies, and the
  arguments of a graph.
- ``command``: the command line and environment of one process.
- ``domains``: a ROS domain that no other process of the machine has.
- ``middleware``: room for raw images, unless the user chose otherwise.
- ``supervisor``: starts the table as separate processes and stops all of them (`vlaforget up`), where ros2
  launch is missing.
- ``launching``: the same table as a launch description; the only file that imports launch and launch_ros.

Lifecycle nodes configure and activate themselves when their parameter ``autostart`` is true, so that a
graph comes up alike under launch, under the supervisor and by hand.
"""
