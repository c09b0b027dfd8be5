"""The first stage: counts over users that propose candidates and can be unlearned exactly."""
