"""What is known of a model call: request, answer, tokens, filters, attempts."""
