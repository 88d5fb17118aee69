"""How a lease's machine is reached, and what it reaches."""
