"""Robot cells behind one small interface: the simulated one here, a real arm behind the same topics.

``interface`` says what a cell is, ``situations`` which episodes the embedded cell can pose, ``metaworld_*`` runs
them on MuJoCo physics, ``experts`` and ``demonstrations`` make training data, ``rollouts`` closes the loop
with a policy without ROS.
"""
