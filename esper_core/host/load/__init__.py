"""Loading of sinks: which are selected, where they are installed, whether they fit the contract, their options."""
