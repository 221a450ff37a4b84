"""The embedded engine: real weights behind the OpenAI API, in a process of its own."""
