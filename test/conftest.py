"""For all tests."""

from hypothesis import settings

# How long an example takes by the wall clock says how busy the machine is: no reason to fail. Against hanging there is
# the time limit of pytest.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
