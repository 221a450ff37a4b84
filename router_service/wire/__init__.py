"""OpenAI's wire types and their conversion to domain values, by hand."""
