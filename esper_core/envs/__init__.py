"""Environments: the adapter for Gymnasium's, the masks they may bring, and tasks of our own. Imports NumPy, not torch."""
