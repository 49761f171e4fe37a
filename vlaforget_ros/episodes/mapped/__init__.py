"""Bags of other programs, read by a mapping file that says what their topics mean."""
