"""The training process itself: signals, log files, the heartbeat, and a trainer in a child process."""
