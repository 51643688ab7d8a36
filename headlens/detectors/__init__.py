"""What is learned on top of a backbone and how a score is read: prompts, head weights, scoring; one file per method."""
