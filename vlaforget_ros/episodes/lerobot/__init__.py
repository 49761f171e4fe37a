"""LeRobot data sets (v3) in and out.

Parts, and the only direction in which they may call each other (left calls right)::

    conversion -> reading, writing
    reading -> frames -> rows, video;  reading -> facts, choosing -> index -> layout
    writing -> features, statistics, video, facts -> layout
"""
