"""Raw commands to drives by the kernel: what was sent and what came back, and no judgement of either."""
