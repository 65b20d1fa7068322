"""From a question to rows of one snapshot."""
