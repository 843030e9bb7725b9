"""Pure decisions: no clock, no network, no process. See ARCHITECTURE.md."""
