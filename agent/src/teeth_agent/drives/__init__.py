"""Drives as their standards describe them: commands built, answers read, over any port, simulated or not."""
