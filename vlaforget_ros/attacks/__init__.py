"""Attacks on a finished edit: does what was taken out come back, and does the edit show what it was made from?

Parts, and the only direction in which they may call each other (left calls right)::

    run -> quantise, relearn, variants, membership -> subject, trials -> findings, outcomes
    successive -> subject, trials

``subject`` is the edited policy with everything the edit was measured by; ``trials`` are closed-loop episodes in
the simulated cell. Every attack yields ``findings``: figures, details, remarks. None of it needs ROS. An attack that
brings nothing back shows that this attack did not, on these episodes; docs/attacks.md says what that is worth.
"""
