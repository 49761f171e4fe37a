"""Benchmarks behind ``vlaforget bench NAME``: each returns one result document (see :mod:`vlaforget_ros.figures`)."""
