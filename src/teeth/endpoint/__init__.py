"""What agents dial: TLS listener, sessions, store, HTTP door."""
