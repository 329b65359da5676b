"""Ways of reading a report. Nothing here measures or judges."""
