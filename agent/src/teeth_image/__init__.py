"""What disk images are made of: tables, formats, manifests, boot entries. For agent and host, without I/O."""
