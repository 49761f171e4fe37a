"""Files of bags: whole or damaged ones read message by message, new ones written."""
