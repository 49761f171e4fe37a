"""Every method on the same bags, budget and seeds: ``vlaforget bench unlearning``.

``variants`` says what is compared, ``cells`` makes and measures one edit, ``matrix`` runs all that are missing,
``summary`` turns cells into figures, ``plot`` into a picture, ``page`` into a page of the
documentation with ``targets`` on top. A cell is a file: a stopped run goes on where it was.
"""
