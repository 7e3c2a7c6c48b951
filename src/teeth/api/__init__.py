"""The operator's door: HTTP on loopback, behind a token, over ``teeth.service.Endpoint``."""
