"""The commands of this plugin; each module imports heavy packages only when it runs."""
