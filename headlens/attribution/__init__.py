"""Attribution maps for a target score, and how faithful they are."""
