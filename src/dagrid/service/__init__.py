"""What serves many runs at once and for a long time: workers of the fleet and their coordinator."""
