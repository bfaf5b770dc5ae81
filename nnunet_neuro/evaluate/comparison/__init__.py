"""Several models side by side: from the scores.json of each to tables, tests and one page."""
