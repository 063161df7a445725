"""One call: what to do next, attempts and hedges, breakers, limits, budgets and time. Knows no library that sends."""
