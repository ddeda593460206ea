"""What lasts: known projects, versions with their cards, the live pointer. One folder."""
