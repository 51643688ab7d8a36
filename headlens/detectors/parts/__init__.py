"""Parts that methods are built of: learned prompts, sentences, head weights, adapters."""
