"""Floor 3: the policies of one role, asked in order; the first opinion wins."""
