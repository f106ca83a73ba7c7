"""Two checkpoints side by side in a browser; see __main__.py."""
