"""The lens: contributions, ablation, importance, comparison and naming of attention heads."""
