"""Agent and endpoint in one process under virtual time, with everything that goes wrong: see README.md."""
