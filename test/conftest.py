"""For all tests."""

import signal

from hypothesis import settings

# How long an example takes by the wall clock says how busy the machine is: no reason to fail. Against hanging there is
# the time limit of pytest.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# A shell starts what runs in its background with SIGINT ignored, and children inherit that: processes of the tests that
# end by it would never end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
