"""The commands that this plugin brings; each module imports nothing heavy until it runs."""
