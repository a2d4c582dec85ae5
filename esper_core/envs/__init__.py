"""Environments: an adapter for any Gymnasium one, and the masks they may bring."""
