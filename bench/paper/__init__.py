"""PALDIA's evaluation: workloads x traces x loads x hardware x policies, in the simulator."""
