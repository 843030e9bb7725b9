"""Programs that run in other servers' interpreters, with what those have and nothing of ours."""
