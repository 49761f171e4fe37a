"""The report of a finished edit: one HTML page and one JSON document, verdict first.

``material`` reads an edit's folder and what was measured on its adapter, ``content`` puts it into the order in which
people ask (``verdict`` and ``comparison`` are its harder parts, ``words`` has the names), ``page`` makes HTML of it
with ``plots`` and ``pictures``. The demo and whoever else reports on an edit use the same parts. None of it needs ROS
or a policy.
"""
