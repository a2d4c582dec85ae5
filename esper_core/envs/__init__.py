"""Part of Esper; see docs/explanation/architecture.md."""
