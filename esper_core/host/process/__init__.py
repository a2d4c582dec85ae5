"""The training process: signals, log files, the heartbeat, and training in a child process."""
