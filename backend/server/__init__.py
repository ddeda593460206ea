"""What answers HTTP: the ML protocol server, and the adapter for the stock one."""
