"""From one emitted event to every sink: hub, channels, buffers, guards, and the account of what was lost."""
