"""From records to tables: rows, labels, statistics, layout."""
