"""The ``vlaforget`` command: thin functions that read options, call the core and print tables."""
