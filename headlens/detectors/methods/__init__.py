"""Methods: each is one readable file; ``registry`` knows them by name."""
