"""Environments: an adapter for any Gymnasium one, the masks they may bring, and tasks of our own."""
