"""Why a host cannot lease its GPUs, and what to change. Facts are read, then judged by pure functions."""
