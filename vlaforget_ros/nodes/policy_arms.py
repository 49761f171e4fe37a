"""The policy nodes of one process: one, or one for each arm on a shared model."""

from __future__ import annotations

from vlaforget_ros.nodes.model_share import ModelShare
from vlaforget_ros.nodes.parameters import names_in
from vlaforget_ros.nodes.policy_node import PolicyNode


def policy_nodes() -> list[PolicyNode]:
    """The nodes that the parameter ``arms`` asks for, below the namespace of the command line.

    Each has the topics, services and adapters of a policy node that runs by itself, and its own parameters:
    ``/left/policy_node`` in a parameter file is the left arm's.
    """
    first = PolicyNode()
    arms = names_in(str(first.get_parameter("arms").value))
    if not arms:
        return [first]
    above = first.get_namespace().rstrip("/")
    first.destroy_node()
    share = ModelShare()
    nodes = [PolicyNode(f"{above}/{arm.strip('/')}", share) for arm in dict.fromkeys(arms)]
    share.told = nodes[0].get_logger().info
    return nodes
