"""The params and results of every command, as types. One module per subject, imported by whoever needs it."""
