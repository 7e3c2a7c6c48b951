"""Machines and networks that outlive the command that started them: a keeper process holds each."""
