"""Text to int64 arrays and back, on the tokenizers library. Knows nothing of models."""
