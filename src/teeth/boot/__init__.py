"""What a machine is handed when it boots: iPXE scripts against one-shot boot grants."""
