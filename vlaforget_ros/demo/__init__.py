"""The demo: an arm misbehaves, its bags are unlearned on the spot, the adapter is swapped in, the rate falls.

``plan`` says which episodes are run, ``drive`` runs them on the live graph, ``loop`` is the whole story, ``results``
turns bags into figures, ``report`` and ``pictures`` show them.
"""
