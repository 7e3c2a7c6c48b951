"""Images kept on this machine, on a partition that is set aside for them or in memory."""
