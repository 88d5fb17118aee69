"""Bills: prices and tax, months that are closed, corrections, budgets."""
