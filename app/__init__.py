"""The gateway: HTTP, state and the live recommender."""
