"""Which sinks are selected, where they come from, whether they fit the contract, and their options."""
