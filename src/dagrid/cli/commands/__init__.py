"""The commands, a room for those that have much in common; each is imported when it is called."""
