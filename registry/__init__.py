"""Names, ids, errors and the operator's registry. Imports nothing else of ours."""
