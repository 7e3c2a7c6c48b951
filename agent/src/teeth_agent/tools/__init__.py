"""One module for each external tool: its argv, its parser, its frozen result."""
