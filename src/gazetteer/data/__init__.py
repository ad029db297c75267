"""Text in: lines of data, passages, tokens, batches."""
