"""Esper beside its peers: every row is measured turn by turn in one run, in CPU time, and compared as a ratio.

``python -m esper_bench`` (in ``tests/benchmarks``; ``make bench``, ``bench-quick`` and ``bench-check`` call it). A row
is one piece of work, done by Esper and by each peer. Every library works in a process of its own (:mod:`.worker`), so
that its threads, caches and imports are its own cost; the processes take turns, so that a busy machine slows all alike.
"""
