"""How fast Leasehold is. Each script takes `--quick` and `--json`; docs/benchmarks.md keeps the figures."""
