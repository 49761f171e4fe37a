"""Edits of a policy: from recorded frames to a LoRA adapter with a record of what it changed.

Parts, from the top down. A part may call those of its own line, where that makes no circle, and of lines below::

    child retrain      the process of one edit, under child_guard; a reference trained without the forget set
    edit sources output override            sets to adapter; bags to sets; adapter to files; another method
    proposal request_file                   a new request from an engineer's answers, and as a file
    earlier parent                          what a request builds on: earlier requests, the adapter it starts from
    base               whose base weights an edit works on
    examine needed neighbours               a request held against its bags; reading what it needs; near neighbours
    observation                             whether what was recorded is what the policy is shown
    request selected contradictions innocence  what is wanted, what it chose, whether it can be meant and is innocent
    checks leakage sets loading units       what is odd about sets; who is in them; pictures in parts; foreign actions
    methods            one file a method: losses, perhaps a mask, gradient surgery, a start, a finish, a schedule
    rounds ranking fisher                   train, measure, keep or roll back, store; layer scores; weights' importance
    merging            whether merged weights are still the edit that was measured
    workbench          the policy under edit with its sets: measure, cache
    progress records   what is shown of a step; what a round leaves
    training           the loop over steps: optimiser, masks, smaller passes where memory is short, checkpoints
    steps passes losses                     a step's batches and their gradients; terms that methods share
    views              a batch as the policy sees it now
    bank               a set, encoded, and what the original policy says about it
    gates teacher checkpoints               limits; the original policy asked; unfinished rounds on disk
    metrics network scores                  figures; forward passes from any layer up; layer scores
    portions                                frames of a set, as many at a time as memory allows
    lora data rates objective pcgrad guard journal parameters
    room                                    whether there is memory for a copy of the base weights
    process child_guard                     how others start an edit; neither knows anything of it

``child`` is a process of its own: an out-of-memory error or a kill there loses neither the node nor the policy.
``process`` is what the node and the command call. ``edit`` knows nothing of bags, ``sources`` nothing of methods. A
method sees views and a workbench, never a file; the engine (``rounds`` and below) never asks which method it runs.
Every decision is logged by ``journal``, and what is finished or checkpointed there is where an interrupted edit goes
on. None of it needs ROS.
"""
