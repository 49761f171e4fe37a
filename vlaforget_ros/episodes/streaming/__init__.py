"""Frames in batches, from bags that are too large for the memory."""
