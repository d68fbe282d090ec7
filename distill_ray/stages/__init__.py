"""The stages of a study, on Ray: teach, search, confirm. Importing this package is cheap; Ray comes in with the first job."""
