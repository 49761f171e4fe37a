"""What is dangerous, how often it happens, and when to stop. Pure: no ROS, injected time.

``rules`` judge one pose sample each (one small module a rule, one registry line), ``debounce`` turns readings
into events, ``monitor`` is the decision the safety monitor node publishes (state, speed scale, latched stop),
``rates`` counts violations and successes per adapter with intervals that hold under continuous looking,
``config`` reads the rules file.

This is not a safety-rated device: it watches what the policy does, and the limits in the robot's own
controller stay.
"""
