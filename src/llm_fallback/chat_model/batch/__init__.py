"""Files of any length, answered row by row: what is read, what is written, and how many rows are under way."""
