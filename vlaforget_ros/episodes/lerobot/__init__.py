"""LeRobot data sets in (v2 and v3) and out (v3).

Parts, and the only direction in which they may call each other (left calls right)::

    conversion -> reading, writing
    reading -> frames -> rows, video;  reading -> facts, choosing -> index -> version2 -> layout
    writing -> rolling -> video;  writing -> features, statistics, facts -> layout
"""
