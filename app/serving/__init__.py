"""The live recommender: watch releases, load beside, switch, confirm, answer."""
