"""Environments: an adapter for any Gymnasium environment, and the masks that environments may provide."""
