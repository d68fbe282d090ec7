"""The report of a study: the table, the report page with its figures, and the same for machines."""
