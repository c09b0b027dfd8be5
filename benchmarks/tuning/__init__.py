"""Tune the settings of unlearning methods with one recorded budget of trials for every method."""
