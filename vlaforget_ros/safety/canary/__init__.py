"""May a candidate adapter replace the stable one? A canary decides from rollouts, looking after each of them.

``protocol`` reads what to ask for, ``sequential`` has the tests that survive looking after every rollout, ``machine``
is the state machine that a node or a simulation feeds with rollouts (``state`` has its values), ``assignment`` says
which arm drives the next one. ``exact`` computes what a protocol will do, ``plan`` makes a table of it, ``simulate``
plays many canaries at once, ``document`` is the record that a report is made from. Pure: no ROS, injected time.
"""
