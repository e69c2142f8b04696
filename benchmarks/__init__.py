"""What signing, deciding and fetching a key cost; each prints a table and one last line for machines to read."""
