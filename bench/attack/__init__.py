"""What bad input and slow callers do to a frontend, and to those it serves meanwhile.

    python -m bench.attack [--seconds S] [--out DIR] [--only NAME,...]

Each attack runs as a process of its own, with least priority, as it would on another machine.
Others meanwhile send right requests at a steady rate; how long those take is held against a quiet
time, and against a neighbour that uses as much of the processor without an attack.
"""
