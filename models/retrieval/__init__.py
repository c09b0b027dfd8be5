"""First-stage retrieval: counts over users that propose candidates and unlearn exactly."""
