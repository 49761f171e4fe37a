"""What of a live graph is written, and when: everything or incidents, masked, within the room of the disk."""
