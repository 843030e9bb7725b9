"""The process that starts the workers, tells them routes and sums up what they saw."""
