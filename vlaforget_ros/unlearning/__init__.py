"""Staged edits of a policy: from recorded frames to a LoRA adapter with a proof of what it changed.

Parts, and the only direction in which they may call each other (left calls right)::

    child -> request, sources, output, edit
             sources -> earlier -> request
    edit -> stages -> training -> losses -> objective, pcgrad
            stages -> workbench -> bank -> network
                      workbench -> scores, metrics, lora
    gates -> metrics -> rates

``child`` is the process that an edit runs in: an out-of-memory error or a kill there loses neither the node
nor the policy. ``request`` says what is wanted, ``sources`` turns bags into frames, ``edit`` knows nothing of
either. Every decision is logged by ``journal``, from which an interrupted edit goes on. None of it needs ROS.
"""
