"""What folders of bags hold, and what is wrong with them."""
