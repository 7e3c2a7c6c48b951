"""The sans-IO wire protocol, shared by agent and endpoint: imports no I/O and no clock."""
