"""What every process needs: clock, lifecycle, RPC and logging."""
